"""An attack for training on text, which replaces words by synonyms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from attacks.inputs import check_batch, loss_and_gradient
from attacks.losses import named_loss
from attacks.modes import attacking, check_mode
from attacks.network import Model
from attacks.text.words import like
from robustprune.models.language import EmbeddingClassifier
from robustprune.models.sentences import SentenceTokenizer
from robustprune.packing import CODES, unpack_tokens

#: pieces that join the text on both sides into one word, as `attacks.text.split` does
_TIES = ("'", "’", "-")
#: how pieces that begin a word are marked, in byte-level BPE and in SentencePiece
_MARKS = ("Ġ", "▁")


@dataclass(frozen=True, eq=False)
class TokenSynonyms:
    """The words that may replace a word, where both are one token long.

    Attributes:
        others: (V, M) int64, the ids of at most M synonyms of each of the V tokens; the rest is −1.
        goes_on: (V,) bool, True for tokens that continue the word before them.
        ties: (V,) bool, True for apostrophes and hyphens, which join two tokens into one word.
    """

    others: Tensor = field(repr=False)
    goes_on: Tensor = field(repr=False)
    ties: Tensor = field(repr=False)

    def to(self, device: torch.device) -> TokenSynonyms:
        """Return the same table on `device`, or this object where it is there already."""
        if self.others.device == device:
            return self
        return TokenSynonyms(*(t.to(device) for t in (self.others, self.goes_on, self.ties)))

    def slots(self, ids: Tensor, words: Tensor) -> Tensor:
        """Return (N, T) bool: where ids (N, T) are whole words that have synonyms."""
        tied = self.ties[ids]
        inside = self.goes_on[ids] | tied
        alone = words & ~inside & (self.others[ids, 0] >= 0)
        alone[:, :-1] &= ~inside[:, 1:]
        alone[:, 1:] &= ~tied[:, :-1]
        return alone


def token_synonyms(
    encoder: SentenceTokenizer, synonyms: Callable[[str], Sequence[str]], *, most: int = 24
) -> TokenSynonyms:
    """Look up the synonyms of every word that is one token, and keep those that are one token, too.

    Args:
        encoder: the tokenizer whose vocabulary is used: WordPiece, SentencePiece or byte-level BPE.
        synonyms: a function from a word in lower case to its synonyms, nearest first.
        most: M, the largest number of synonyms that are kept for a word, at least 1.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most={most} must be at least 1, as in 24 synonyms")
    vocabulary: dict[str, int] = encoder.tokenizer.get_vocab()
    size = max(vocabulary.values()) + 1
    mark = next((m for m in _MARKS if any(piece.startswith(m) for piece in vocabulary)), "")
    others = torch.full((size, most), -1)
    goes_on, ties = torch.zeros(2, size, dtype=torch.bool)
    for piece, index in vocabulary.items():
        starts = piece.startswith(mark) if mark else not piece.startswith("##")
        word = piece.removeprefix(mark).removeprefix("##")
        ties[index] = word in _TIES
        goes_on[index] = not starts and word[:1].isalnum()
        if starts and len(word) > 1 and word.isalpha():
            found = [vocabulary.get(mark + like(word, other)) for other in synonyms(word.lower())]
            kept = [other for other in dict.fromkeys(found) if other not in (None, index)][:most]
            others[index, : len(kept)] = torch.tensor(kept)
    return TokenSynonyms(others, goes_on, ties)


@dataclass(frozen=True)
class SynonymSwap:
    """Replace words by synonyms: an attack on the words themselves, for training.

    By "gradient", the synonym s of word i with the largest g_i · (e_s − e_i) is chosen, where g_i
    is the gradient at the embedding e_i of the word, and the k words with the largest products are
    replaced. These are the flips of HotFlip (Ebrahimi et al. 2018, arXiv 1712.06751, §3) applied to
    words, as in the adversarial training A2T (Yoo & Qi 2021, arXiv 2109.00544). It costs one
    forward and one backward pass. By "chance", k words and their synonyms are drawn uniformly
    without any pass, as in SAFER (Ye et al. 2020, arXiv 2005.14424), which may be as good (Ivgi &
    Berant 2021, arXiv 2104.05062). δ does not change; only token ids do.

    Attributes:
        synonyms: the result of `token_synonyms` for the model's tokenizer.
        share: the share of the words of each sentence that are replaced, in (0, 1]. k is rounded
            down, so that 0.25 leaves sentences of three words as they are.
        by: "gradient" or "chance".
        varied: whether each sentence draws its own number of words uniformly from 0..k, so that
            training also sees sentences that are not changed.
        mode: the mode of the model during the attack: "eval", "train" or "keep".

    Random numbers come from the device's global generator.

    Raises:
        ValueError: an option is out of range; or, by gradient, the model is no
            `EmbeddingClassifier`, or x has no room for δ.
    """

    synonyms: TokenSynonyms = field(repr=False)
    share: float = 0.25
    by: Literal["gradient", "chance"] = "gradient"
    varied: bool = False
    mode: str = "eval"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} of the words must lie in (0, 1], as in 0.25")
        if self.by not in ("gradient", "chance"):
            raise ValueError(f"by={self.by!r} is not known; choose gradient or chance")
        check_mode(self.mode)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        y, x = check_batch(x, y), x.detach()
        tokens, synonyms = unpack_tokens(x), self.synonyms.to(x.device)
        slots, width = synonyms.slots(tokens.ids, tokens.words), tokens.ids.shape[1]
        others = synonyms.others[tokens.ids[slots]]
        if self.by == "chance":
            value, best = _drawn(others)
        else:
            embedded = _embedded(model)
            grad = self._gradient(embedded, x, y)[:, :width]
            value, best = _steepest(embedded.table, tokens.ids[slots], others, grad[slots])
        values = value.new_full(slots.shape, -torch.inf).masked_scatter(slots, value)
        order = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        taken = slots & (values > 0) & (order < self._counts(tokens.words).unsqueeze(1))
        x_adv = x.clone()
        x_adv[:, :width, -CODES][taken] = best[taken[slots]].to(x.dtype)
        return x_adv

    def _gradient(self, model: EmbeddingClassifier, x: Tensor, y: Tensor) -> Tensor:
        """Return the gradient of the loss with respect to the word embeddings, (N, T, D)."""
        if x.shape[2] == CODES:
            raise ValueError("x leaves no room for δ; see robustprune.packing.with_room")
        with attacking(model, self.mode):
            return loss_and_gradient(model, x, y, named_loss("ce"))[2][:, :, :-CODES]

    def _counts(self, words: Tensor) -> Tensor:
        """Return k for each sentence, (N,)."""
        most = (self.share * words.sum(1) + 1e-4).floor()  # 0.29 · 100 is 28.999…
        if not self.varied:
            return most
        return (torch.rand_like(most) * (most + 1)).floor()


def _embedded(model: Model) -> EmbeddingClassifier:
    if not isinstance(model, EmbeddingClassifier):
        raise ValueError(
            f"words are exchanged in the embeddings of a language model, and "
            f"{type(model).__name__} has none; build the model with `language_model`"
        )
    return model


@torch.no_grad()
def _steepest(
    table: nn.Embedding, ids: Tensor, others: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Return by how much the best synonym raises the loss (to first order), and its id, (S,) each.

    There are S words `ids` (S,), their M synonyms `others` (S, M) and their gradients (S, D).
    """
    moved = table(others.clamp_min(0)) - table(ids).unsqueeze(1)
    gains = torch.einsum("smd,sd->sm", moved, grad.to(moved.dtype))
    gain, at = gains.masked_fill(others < 0, -torch.inf).max(1)
    return gain, others.gather(1, at.unsqueeze(1)).squeeze(1)


def _drawn(others: Tensor) -> tuple[Tensor, Tensor]:
    """Return a uniform positive number for each of S words, and one of its synonyms, (S,) each."""
    draws = torch.rand(2, len(others), device=others.device)
    counts = (others >= 0).sum(1)
    at = torch.minimum((draws[0] * counts).long(), counts - 1)
    return 1 - draws[1], others.gather(1, at.unsqueeze(1)).squeeze(1)
