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

#: a word in lower case -> words that may replace it, nearest first
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

    The paper uses the 50 nearest counter-fitted vectors and the Universal Sentence Encoder. The
    defaults here are WordNet's synonyms and MiniLM, so that figures differ from those of the paper.
    The part of speech is that of the word out of context.

    Args:
        synonyms: function of a word; None for WordNet's synonyms; see ``Neighbours`` and
            ``first_of(...)``.
        parts_of_speech: function of a word; None for WordNet's parts of speech.
        embed: function of texts that returns embeddings (n, D); None for MiniLM.
        count: largest number of synonyms of a word.
        min_similarity: ε of the paper: the smallest cosine between the sentence embeddings.
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

    The words of the whole text are ranked by deletion; the paper first ranks the sentences of a
    document. Its fifth bug uses neighbours in GloVe; here it uses the synonyms, by default
    WordNet's.

    Args:
        other arguments: see ``text_fooler``; min_similarity is ε = 0.8 in the paper.
        seed: seed of the places of the bugs.
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
        max_edits: largest number of edits in a text; 30 in the paper.
        min_length: smallest number of characters of a word that is edited.
        queries, batch_size: as in ``TextAttack``.
        seed: seed of the places and of the letters.
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

    The paper's substitution of named entities is omitted, because it needs a recogniser and its
    lists.

    Args:
        synonyms: function of a word; None for WordNet's synonyms.
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

    The paper's combinations of sub-words are omitted; see ``MaskedLanguageModel``.

    Args:
        proposals: ``masked_language_model("bert-base-uncased")``, or another function that queries
            a masked language model.
        embed: function of texts that returns embeddings (n, D); None for MiniLM.
        min_similarity, max_changed: smallest cosine between the sentence embeddings, and largest
            share of changed words; the authors use 0.2 and 0.4.
        lexicon: lexicon whose antonyms are not allowed as replacements; None allows all.
        mask: the mask token of the classifier.
        queries, batch_size: as in ``TextAttack``.

    Raises:
        ValueError: the proposals depend on the word only, as neighbours in an embedding.
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
    """Run the search of BERT-Attack with neighbours in an embedding instead of a masked LM.

    It can run offline, where no masked language model is available. The neighbours do not depend on
    the context, so its figures are never those of BERT-Attack.

    Args:
        neighbours: the neighbours of words, for example those of ``token_vectors(model,
            tokenizer)``.
        others: see ``bert_attack``.
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
