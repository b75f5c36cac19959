"""Repetition in what a language model writes, a sign that it no longer follows its prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.inputs import check_at_least


def distinct(tokens: Tensor, n: int = 2) -> Tensor:
    """Return (number of different n-grams) / (number of n-grams) of each text, (N,) in (0, 1].

    distinct-n of Li et al. 2016, arXiv 1510.03055, for each text by itself.

    Args:
        tokens: (N, T) int64, T at least n.

    Raises:
        ValueError: n is below 1, or texts are shorter than n.
    """
    check_at_least(1, n=n)
    if tokens.dim() != 2 or tokens.shape[1] < n:
        raise ValueError(f"tokens of shape {tuple(tokens.shape)} have no {n}-grams")
    grams = tokens.unfold(1, n, 1)
    different = [len(torch.unique(row, dim=0)) for row in grams]
    return torch.tensor(different, dtype=torch.float64) / grams.shape[1]


def repetition(tokens: Tensor, n: int = 4) -> Tensor:
    """Return the share of n-grams that repeat an earlier one, 1 − distinct-n, (N,) in [0, 1).

    seq-rep-n of Welleck et al. 2020, arXiv 1908.04319.

    Raises:
        ValueError: as in `distinct`.
    """
    return 1 - distinct(tokens, n)
