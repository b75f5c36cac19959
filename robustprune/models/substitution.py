"""An attack for training on text: synonyms in the place of words."""

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
from robustprune.view import CODES, unpack_tokens

#: pieces that tie what stands beside them into one word of `attacks.text.split`
_TIES = ("'", "’", "-")
#: how pieces that begin a word are marked, in byte-level BPE and in SentencePiece
_MARKS = ("Ġ", "▁")


@dataclass(frozen=True, eq=False)
class TokenSynonyms:
    """What may be put in the place of a word, for words of one token each.

    Attributes:
        others: (V, M) int64, ids of the synonyms of each token; −1 where there are no more.
        goes_on: (V,) bool, tokens that belong to the word before them.
        ties: (V,) bool, apostrophes and hyphens, which tie two tokens into one word.
    """

    others: Tensor = field(repr=False)
    goes_on: Tensor = field(repr=False)
    ties: Tensor = field(repr=False)

    def to(self, device: torch.device) -> TokenSynonyms:
        """The same on `device`; itself where it is there already."""
        if self.others.device == device:
            return self
        return TokenSynonyms(*(t.to(device) for t in (self.others, self.goes_on, self.ties)))

    def slots(self, ids: Tensor, words: Tensor) -> Tensor:
        """(N, T) bool: whole words that have synonyms, of ids (N, T) and of what are words."""
        tied = self.ties[ids]
        inside = self.goes_on[ids] | tied
        alone = words & ~inside & (self.others[ids, 0] >= 0)
        alone[:, :-1] &= ~inside[:, 1:]
        alone[:, 1:] &= ~tied[:, :-1]
        return alone


def token_synonyms(
    encoder: SentenceTokenizer, synonyms: Callable[[str], Sequence[str]], *, most: int = 24
) -> TokenSynonyms:
    """The synonyms of every word that is one token, as far as they are one token, too.

    Args:
        encoder: whose vocabulary is looked through: WordPiece, SentencePiece or byte-level BPE.
        synonyms: a word in lower case -> what may stand for it, nearest first.
        most: M, synonyms of a word that are kept.

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
    """Put synonyms in the place of words: an attack on the words themselves, for training.

    Of word i the synonym s with the largest g_i · (e_s − e_i) is taken, g_i the gradient at the
    word's embedding e_i, and of all words the k with the largest products: the flips of HotFlip
    (Ebrahimi et al. 2018, arXiv 1712.06751, §3) on words, as adversarial training takes them in
    A2T (Yoo & Qi 2021, arXiv 2109.00544). It costs one forward and one backward pass. By chance,
    k words and synonyms drawn uniformly cost none: SAFER's training (Ye et al. 2020, arXiv
    2005.14424), which may be as good (Ivgi & Berant 2021, arXiv 2104.05062). δ stays as it is;
    only ids change.

    Attributes:
        synonyms: from `token_synonyms` of the model's tokenizer.
        share: k as a part of the words of each sentence, rounded down: with 0.25 phrases of three
            words stay as they are.
        by: "gradient" or "chance".
        varied: each sentence has its own number of words, uniform on 0..k; for training, which
            should see sentences as they are, too.
        mode: of the model meanwhile: "eval", "train" or "keep".

    Draws come from the device's global generator.

    Raises:
        ValueError: options out of range; when called by gradient, a model that is no
            `EmbeddingClassifier`, or no room for δ.
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
        """∇ of the loss at the word embeddings, (N, T, D)."""
        if x.shape[2] == CODES:
            raise ValueError("x leaves no room for δ; see robustprune.view.with_room")
        with attacking(model, self.mode):
            return loss_and_gradient(model, x, y, named_loss("ce"))[2][:, :, :-CODES]

    def _counts(self, words: Tensor) -> Tensor:
        """k of each sentence, (N,)."""
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
    """Of S words (S,) with M synonyms (S, M) and gradients (S, D) what the best synonym adds to
    the loss, and its id, (S,) each."""
    moved = table(others.clamp_min(0)) - table(ids).unsqueeze(1)
    gains = torch.einsum("smd,sd->sm", moved, grad.to(moved.dtype))
    gain, at = gains.masked_fill(others < 0, -torch.inf).max(1)
    return gain, others.gather(1, at.unsqueeze(1)).squeeze(1)


def _drawn(others: Tensor) -> tuple[Tensor, Tensor]:
    """A uniform positive number for each of S words, and one of its synonyms, (S,) each."""
    draws = torch.rand(2, len(others), device=others.device)
    counts = (others >= 0).sum(1)
    at = torch.minimum((draws[0] * counts).long(), counts - 1)
    return 1 - draws[1], others.gather(1, at.unsqueeze(1)).squeeze(1)
