"""Pack sentences as float tensors, which every attack, objective and measure can use.

They call ``model(x) -> logits`` with a floating-point x, some entries of which the adversary may
change. Sentences fit this as one tensor of shape (N, T, D + 3). For each of T tokens it has the
displacement δ of its word embedding (D entries, which are zero in the data) and three codes: the
token's id, its segment (0 or 1, for pairs of sentences), and its state (padding, special or word).
The model looks up the embeddings itself and adds δ::

    threat = ThreatModel("l2", eps=0.2, support=words)    # ‖δ‖_F ≤ ε for each sentence
    x_adv = PGD(threat, steps=5)(model, x, y)

`words` allows changes only to δ of words, so that the codes and the δ of padding and special
tokens never change. This has advantages over precomputed embeddings as x:

- there is one code path: loop, attacks, validation and measures see a float tensor, as of an image;
- word embeddings can be trained, and networks with different ones share a data set;
- distances are those of δ itself, without the rounding of (e + δ) − e;
- data sets store only three numbers for each token; `with_room` adds the zeros of δ to a batch.

Ids are exact in float32 up to 2²⁴; a model of lower precision also takes x in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: the number of codes of a token besides δ: id, segment, state
CODES = 3
PADDING, SPECIAL, WORD = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Tokens:
    """The parts of a batch.

    Attributes:
        delta: (N, T, D), the displacement of the word embeddings.
        ids, segments: (N, T) int64.
        attended: (N, T) bool, false for padding.
        words: (N, T) bool, where δ may differ from zero.
    """

    delta: Tensor
    ids: Tensor
    segments: Tensor
    attended: Tensor
    words: Tensor


def pack_tokens(ids: Tensor, segments: Tensor, attended: Tensor, special: Tensor) -> Tensor:
    """Return the codes of a batch for a data set: four (N, T) tensors -> (N, T, 3) float32.

    Raises:
        ValueError: shapes differ, or float32 can't hold an id.
    """
    if not (ids.shape == segments.shape == attended.shape == special.shape) or ids.dim() != 2:
        shapes = [tuple(t.shape) for t in (ids, segments, attended, special)]
        raise ValueError(f"ids, segments, attended and special must be (N, T), got {shapes}")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < 2**24:
        raise ValueError(f"token ids must lie in 0..2^24 - 1, got up to {int(ids.max())}")
    state = torch.where(special.bool(), SPECIAL, WORD)
    state = torch.where(attended.bool(), state, PADDING)
    return torch.stack((ids.float(), segments.float(), state.float()), dim=2)


def token_counts(codes: Tensor) -> Tensor:
    """Return the number of tokens of each sentence, special ones included: (N, T, 3) -> (N,)
    int64."""
    return (codes[:, :, -1] > PADDING).sum(1)


def with_room(codes: Tensor, width: int) -> Tensor:
    """Put δ = 0 before the codes, and cut off columns that are padding in the whole batch:
    (N, T, 3) -> (N, T', width + 3)."""
    codes = codes[:, : _longest(codes)]
    return torch.cat((codes.new_zeros(*codes.shape[:2], width), codes), dim=2)


with_room.__module__ = "robustprune.view"  # checkpoints of older versions know it by this name


def unpack_tokens(x: Tensor) -> Tokens:
    """Split a batch (N, T, D + 3) into its parts, without columns in which all is padding.

    Raises:
        ValueError: the shape or the precision cannot hold tokens.
    """
    if x.dim() != 3 or x.shape[2] < CODES:
        raise ValueError(
            f"a batch of sentences has shape (N, T, D + {CODES}), got {tuple(x.shape)}; see "
            "robustprune.packing"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x is {x.dtype}, which does not hold token ids; pass it as float32")
    x = x[:, : _longest(x)]
    ids, segments, state = x[:, :, -CODES:].detach().unbind(2)
    return Tokens(
        delta=x[:, :, :-CODES],
        ids=ids.long(),
        segments=segments.long(),
        attended=state > PADDING,
        words=state == WORD,
    )


class _Words:
    """The entries that the adversary may change (`ThreatModel.support`): δ of the words only."""

    def __call__(self, x: Tensor) -> Tensor:
        allowed = (x[:, :, -1:] == WORD).expand_as(x).clone()
        allowed[:, :, -CODES:] = False
        return allowed

    def __repr__(self) -> str:
        return "words"  # an attack's repr goes into metrics.json, where an address would differ


words = _Words()


def _longest(x: Tensor) -> int:
    """Return the number of tokens of the longest sentence, at least 1."""
    used = (x[:, :, -1] > PADDING).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1
