"""Black-box attacks on text classifiers that change words or characters and count every query.

An attack is called as ``attack(classify, texts, labels) -> list[TextResult]``, where ``classify``
takes a list of texts and returns logits (n, C). It needs torch and numpy; WordNet, MiniLM and
masked language models are loaded when a preset needs them (``pip install robustprune[text]``).
"""

from attacks.text.attack import Candidates, TextAttack
from attacks.text.bugs import text_bugs, word_bugs
from attacks.text.candidates import ByWord
from attacks.text.constraints import (
    TextConstraint,
    edit_distance_within,
    same_part_of_speech,
    same_tags,
    share_changed,
    stop_words_kept,
    words_of_length,
)
from attacks.text.diff import Diff, word_diff
from attacks.text.engine import Embed
from attacks.text.language_models import (
    MaskedLanguageModel,
    SentenceEncoder,
    masked_language_model,
    minilm,
)
from attacks.text.lexicon import Lexicon, content_synonyms, wordnet
from attacks.text.neighbours import Neighbours, first_of, token_vectors
from attacks.text.peers import TextAttackRecipe, from_textattack
from attacks.text.presets import (
    bert_attack,
    deep_word_bug,
    neighbour_attack,
    pwws,
    text_bugger,
    text_fooler,
)
from attacks.text.pretrained import (
    description_digest,
    load_pretrained,
    local_files_only,
    refuse_kernels,
)
from attacks.text.quiet import quiet_transformers
from attacks.text.ranking import by_context, by_deletion, by_saliency, by_unknown
from attacks.text.result import (
    Classify,
    TextResult,
    TextSummary,
    recheck,
    summarise,
    worst_case,
)
from attacks.text.stop_words import STOP_WORDS, is_stop_word
from attacks.text.words import Words, split

__all__ = [
    "STOP_WORDS",
    "ByWord",
    "Candidates",
    "Classify",
    "Diff",
    "Embed",
    "Lexicon",
    "MaskedLanguageModel",
    "Neighbours",
    "SentenceEncoder",
    "TextAttack",
    "TextAttackRecipe",
    "TextConstraint",
    "TextResult",
    "TextSummary",
    "Words",
    "bert_attack",
    "by_context",
    "by_deletion",
    "by_saliency",
    "by_unknown",
    "content_synonyms",
    "deep_word_bug",
    "description_digest",
    "edit_distance_within",
    "first_of",
    "from_textattack",
    "is_stop_word",
    "load_pretrained",
    "local_files_only",
    "masked_language_model",
    "minilm",
    "neighbour_attack",
    "pwws",
    "quiet_transformers",
    "recheck",
    "refuse_kernels",
    "same_part_of_speech",
    "same_tags",
    "share_changed",
    "split",
    "stop_words_kept",
    "summarise",
    "text_bugger",
    "text_bugs",
    "text_fooler",
    "token_vectors",
    "word_bugs",
    "word_diff",
    "wordnet",
    "words_of_length",
    "worst_case",
]
