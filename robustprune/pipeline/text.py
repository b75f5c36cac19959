"""What only runs on text need: their encoder, their attacks, and checks of their config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from attacks.text import (
    Candidates,
    Classify,
    Embed,
    TextAttack,
    bert_attack,
    content_synonyms,
    deep_word_bug,
    description_digest,
    masked_language_model,
    minilm,
    pwws,
    text_bugger,
    text_fooler,
    wordnet,
)
from robustprune.certify import ClassifiedTexts
from robustprune.models import (
    SentenceTokenizer,
    TokenSynonyms,
    sentence_classifier,
    token_synonyms,
)
from robustprune.models.language import weights_source
from robustprune.run.config import Config
from robustprune.tasks import Task, text_names

TEXT_ATTACKS: dict[str, Callable[..., TextAttack]] = {
    "text_fooler": text_fooler,
    "text_bugger": text_bugger,
    "deep_word_bug": deep_word_bug,
    "pwws": pwws,
    "bert_attack": bert_attack,
}
#: the attacks that check whether a changed sentence still has the same meaning
_COMPARING = ("text_fooler", "text_bugger", "bert_attack")


def encoder_of(config: Config) -> SentenceTokenizer:
    """Return the tokenizer of the network that the config names."""
    weights = str(config.model.options.get("weights", "minilm"))
    return SentenceTokenizer(weights, max_length=config.task.max_length)


def language_digest(config: Config) -> str | None:
    """Return the digest of the config and tokenizer of the pre-trained network that the config
    names, or None for another kind of network."""
    if config.model.name != "language":
        return None
    weights = str(config.model.options.get("weights", "minilm"))
    return description_digest(weights_source(weights))


def check_text(config: Config) -> None:
    """Check the options for text, before anything is written.

    Raises:
        ValueError: attacks on text are asked for without a text task or their packages, or bounds
            for a language model.
    """
    is_text = config.task.name in text_names()
    if config.evaluation.text and not is_text:
        raise ValueError(
            f"evaluation.text attacks sentences, and task {config.task.name} has none; leave it out"
        )
    if config.task.by_length and not is_text:
        raise ValueError(
            f"task.by_length sorts sentences, and task {config.task.name} has none; leave it out"
        )
    if config.inner.synonyms is not None:
        _check_synonyms(config)
    if is_text and config.certify.method != "none":
        raise ValueError(
            f"certify.method {config.certify.method} has no bounds for transformers; smoothe in "
            "embedding space with certify.sigma instead"
        )
    if config.certify.synonyms is not None:
        _needs_words(config, "certify.synonyms", "smoothes over words")
    if ("bert_attack" in config.evaluation.text) != (config.evaluation.masked_lm is not None):
        raise ValueError(
            "evaluation.text: bert_attack takes the proposals of evaluation.masked_lm, a masked "
            "language model by hub id (bert-base-uncased) or folder; give both or neither"
        )
    try:
        text_attacks(config)
    except (ImportError, OSError) as error:
        raise ValueError(f"evaluation.text: {error}") from error


def _needs_words(config: Config, option: str, what: str) -> None:
    if config.task.name not in text_names():
        raise ValueError(f"{option} {what}, and task {config.task.name} has none; leave it out")
    try:
        wordnet()
    except ImportError as error:
        raise ValueError(f"{option}: {error}") from error


def _check_synonyms(config: Config) -> None:
    _needs_words(config, "inner.synonyms", "exchanges words")
    if config.objective.name == "free":
        raise ValueError(
            "inner.synonyms makes another batch in each step, and objective free keeps one δ for "
            "several steps on one batch; leave one of them out"
        )


def text_attacks(config: Config, device: torch.device | str = "cpu") -> dict[str, TextAttack]:
    """Return the attacks that `evaluation.text` names.

    Raises:
        ImportError: a package that one of them needs is not installed.
    """
    section = config.evaluation
    found: dict[str, TextAttack] = {}
    for name in section.text:
        options: dict[str, Any] = {"embed": _embed(str(device))} if name in _COMPARING else {}
        if name == "bert_attack":
            assert section.masked_lm is not None, "`check_text` refuses it without"
            options["proposals"] = _proposals(section.masked_lm, str(device))
        found[name] = TEXT_ATTACKS[name](queries=section.queries, **options)
    return found


# These models are loaded once for the check and for all networks of a run.
@cache
def _embed(device: str) -> Embed:
    return minilm(device=device)


@cache
def _proposals(name: str, device: str) -> Candidates:
    return masked_language_model(name, device=device)


def sentences_of(config: Config, task: Task, model: nn.Module) -> ClassifiedTexts | None:
    """Return the texts of the test split with their classifier, or None if the task has no text.
    Stop words have no synonyms, as in the attacks on text."""
    if task.texts is None:
        return None
    return ClassifiedTexts(task.texts, classifier_of(config, task.texts, model), content_synonyms)


def synonyms_of(config: Config) -> TokenSynonyms:
    """Return the synonyms for training: tokens of the network that the config names."""
    return token_synonyms(encoder_of(config), content_synonyms)


def classifier_of(config: Config, texts: Sequence[str], model: nn.Module) -> Classify:
    """Return a function from texts to logits; a tab in a text separates the two of a pair."""
    pairs = any("\t" in text for text in texts)
    return sentence_classifier(model, encoder_of(config), pairs=pairs)
