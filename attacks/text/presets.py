"""Published attacks as combinations of rankings, candidates and constraints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attacks.text.attack import Candidates, TextAttack
from attacks.text.bugs import text_bugs, word_bugs
from attacks.text.candidates import ByWord
from attacks.text.constraints import (
    PartsOfSpeech,
    TextConstraint,
    edit_distance_within,
    same_part_of_speech,
    share_changed,
    stop_words_kept,
    words_of_length,
)
from attacks.text.engine import Embed
from attacks.text.language_models import minilm
from attacks.text.lexicon import Lexicon, wordnet
from attacks.text.neighbours import Neighbours
from attacks.text.ranking import by_context, by_deletion, by_saliency, by_unknown

#: a word in lower case -> others that may stand in its place, nearest first
Synonyms = Callable[[str], Sequence[str]]


def text_fooler(
    *,
    synonyms: Synonyms | None = None,
    parts_of_speech: PartsOfSpeech | None = None,
    embed: Embed | None = None,
    count: int = 50,
    min_similarity: float = 0.7,
    queries: int | None = None,
    batch_size: int = 64,
) -> TextAttack:
    """Jin et al. 2020 (arXiv 1907.11932), alg. 1: synonyms of the same part of speech, by deletion.

    The paper takes the 50 nearest counter-fitted vectors and the Universal Sentence Encoder; the
    defaults here are WordNet's synonyms and MiniLM, so that figures are not those of the paper.
    The part of speech is that of the word out of context.

    Args:
        synonyms: WordNet's by default; ``Neighbours`` or ``first_of(...)`` are others.
        parts_of_speech: WordNet's by default.
        embed: MiniLM by default.
        count: most synonyms of a word.
        min_similarity: ε of the paper, a cosine of the sentence embeddings.
        queries, batch_size: as in ``TextAttack``.

    Raises:
        ImportError: a default needs a package that is not installed.
    """
    return TextAttack(
        "text_fooler",
        by_deletion,
        ByWord(_first(synonyms or wordnet().synonyms, count)),
        constraints=(
            stop_words_kept,
            same_part_of_speech(parts_of_speech or wordnet().parts_of_speech),
        ),
        embed=embed or minilm(),
        min_similarity=min_similarity,
        queries=queries,
        batch_size=batch_size,
    )


def text_bugger(
    *,
    synonyms: Synonyms | None = None,
    embed: Embed | None = None,
    min_similarity: float = 0.8,
    queries: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> TextAttack:
    """Li et al. 2019 (arXiv 1812.05271), the black-box attack: one of five bugs in each word.

    Words of the whole text are ranked by deletion; the paper first ranks the sentences of a
    document.  Its fifth bug takes neighbours in GloVe; here the synonyms, WordNet's by default.

    Args:
        as ``text_fooler``; min_similarity is the paper's ε = 0.8.
        seed: draws the places of the bugs.
    """
    return TextAttack(
        "text_bugger",
        by_deletion,
        ByWord(text_bugs(synonyms or wordnet().synonyms, seed=seed)),
        constraints=(stop_words_kept,),
        embed=embed or minilm(),
        min_similarity=min_similarity,
        queries=queries,
        batch_size=batch_size,
    )


def deep_word_bug(
    *,
    max_edits: int = 30,
    min_length: int = 1,
    queries: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> TextAttack:
    """Gao et al. 2018 (arXiv 1801.04354): one random edit in a word, by temporal head and tail.

    Args:
        max_edits: most edits in all; 30 in the paper.
        min_length: of the words that are edited, in characters.
        queries, batch_size: as in ``TextAttack``.
        seed: draws the places and the letters.
    """
    return TextAttack(
        "deep_word_bug",
        by_context(),
        ByWord(word_bugs(seed=seed)),
        constraints=(
            stop_words_kept,
            words_of_length(min_length),
            edit_distance_within(max_edits),
        ),
        queries=queries,
        batch_size=batch_size,
    )


def pwws(
    *,
    synonyms: Synonyms | None = None,
    queries: int | None = None,
    batch_size: int = 64,
) -> TextAttack:
    """Ren et al. 2019 (ACL 2019, P19-1103), alg. 1: WordNet synonyms by weighted saliency.

    Without the paper's substitution of named entities, which needs a recogniser and its lists.

    Args:
        synonyms: WordNet's by default.
        queries, batch_size: as in ``TextAttack``.
    """
    return TextAttack(
        "pwws",
        by_saliency(),
        ByWord(synonyms or wordnet().synonyms),
        constraints=(stop_words_kept,),
        queries=queries,
        batch_size=batch_size,
    )


def bert_attack(
    proposals: Candidates,
    *,
    embed: Embed | None = None,
    min_similarity: float = 0.2,
    max_changed: float = 0.4,
    lexicon: Lexicon | None = None,
    mask: str = "[MASK]",
    queries: int | None = None,
    batch_size: int = 64,
) -> TextAttack:
    """Li et al. 2020 (arXiv 2004.09984), alg. 1: what a masked language model proposes.

    Without the paper's combinations of sub-words; see ``MaskedLanguageModel``.

    Args:
        proposals: ``masked_language_model("bert-base-uncased")``, or any function that asks a
            masked language model.
        embed: MiniLM by default.
        min_similarity, max_changed: 0.2 and 0.4, the authors' settings.
        lexicon: whose antonyms are left out; None for none.
        mask: the classifier's own mask token.
        queries, batch_size: as in ``TextAttack``.

    Raises:
        ValueError: the proposals are of the word alone, such as embedding neighbours.
    """
    if isinstance(proposals, (ByWord, Neighbours)):
        raise ValueError(
            "proposals look at a word without its sentence, which is not BERT-Attack; use "
            "neighbour_attack(neighbours), or pass masked_language_model(name)"
        )
    constraints: tuple[TextConstraint, ...] = (stop_words_kept, share_changed(max_changed))
    if lexicon is not None:
        constraints = (*constraints, _no_antonym(lexicon))
    return TextAttack(
        "bert_attack",
        by_unknown(mask),
        proposals,
        constraints=constraints,
        embed=embed or minilm(),
        min_similarity=min_similarity,
        queries=queries,
        batch_size=batch_size,
    )


def neighbour_attack(
    neighbours: Neighbours,
    *,
    embed: Embed | None = None,
    min_similarity: float = 0.2,
    max_changed: float = 0.4,
    mask: str = "[MASK]",
    queries: int | None = None,
    batch_size: int = 64,
) -> TextAttack:
    """The search of BERT-Attack with embedding neighbours in the place of a masked LM.

    What can be run offline, where no masked language model is at hand: the neighbours do not see
    the context, so that its figures are never those of BERT-Attack.

    Args:
        neighbours: of the words, for example of ``token_vectors(model, tokenizer)``.
        others: as ``bert_attack``.
    """
    return TextAttack(
        "embedding_neighbours",
        by_unknown(mask),
        ByWord(neighbours),
        constraints=(stop_words_kept, share_changed(max_changed)),
        embed=embed or minilm(),
        min_similarity=min_similarity,
        queries=queries,
        batch_size=batch_size,
    )


def _first(synonyms: Synonyms, count: int) -> Synonyms:
    return lambda word: synonyms(word)[:count]


def _no_antonym(lexicon: Lexicon) -> TextConstraint:
    return lambda original, changed: (
        not any(
            changed.words[i].lower() in lexicon.opposites(original.words[i])
            for i in changed.changed_from(original)
        )
    )
