"""Compare the scores of all layers: how many of the largest each has, exactly and without joining
them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


def count_best(values: Mapping[str, Tensor], total: int, *, least: int = 0) -> dict[str, int]:
    """Count for each entry how many of the `total` largest of all values it has.

    Of equal values the first count; NaN counts as less than any number. The values are never
    copied into one large tensor.

    Args:
        least: 0, or 1 if each entry must have at least one, which is its largest value.
    """
    dtype = functools.reduce(torch.promote_types, (value.dtype for value in values.values()))
    best = {n: max(int(k.max()) for k in _keys(v, dtype)) for n, v in values.items() if least}
    wanted = min(max(total, len(best)), sum(v.numel() for v in values.values())) - len(best)
    if wanted == 0:
        return dict.fromkeys(values, least)
    threshold = _key_of_rank(values, dtype, wanted, without=list(best.values()))
    counts, equal = dict.fromkeys(values, least), dict.fromkeys(values, 0)
    for name, value in values.items():
        for keys in _keys(value, dtype):
            counts[name] += int((keys > threshold).sum())
            equal[name] += int((keys == threshold).sum())
        if least:
            counts[name] -= best[name] > threshold
            equal[name] -= best[name] == threshold
    left = wanted + len(best) - sum(counts.values())
    for name in values:
        counts[name] += min(equal[name], left)
        left -= min(equal[name], left)
    return counts


def _keys(values: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield whole numbers in the same order as the values, for a piece of the values at a time."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for piece in torch.split(values.detach().flatten(), 1 << 18):
        piece = piece.to(dtype)
        piece = torch.where(piece.isnan(), -torch.inf, piece) + 0.0  # 0 for −0
        bits = piece.view(whole)
        # of two negative floats, the smaller one has the larger bits behind its sign
        bits = torch.where(bits < 0, bits ^ torch.iinfo(whole).max, bits)
        yield bits.int() if whole == torch.int16 else bits


def _key_of_rank(
    values: Mapping[str, Tensor], dtype: torch.dtype, rank: int, *, without: Sequence[int]
) -> int:
    """Return the rank-th largest key of the values except those in `without`. It is found 16 bits
    at a time from the first, by counting how many values have each of the 65,536 patterns."""
    start = -(1 << 15)
    for shift in range(8 * dtype.itemsize - 16, -1, -16):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for value in values.values():
            for keys in _keys(value, dtype):
                digits = (keys >> shift) - start
                digits = digits[(digits >= 0) & (digits < 1 << 16)]
                counts += torch.bincount(digits, minlength=1 << 16).cpu()
        for key in without:
            if 0 <= (digit := (key >> shift) - start) < 1 << 16:
                counts[digit] -= 1
        down = counts.flip(0).cumsum(0)
        place = int((down < rank).sum())
        rank -= int(down[place - 1]) if place else 0
        found = start + (1 << 16) - 1 - place
        start = found << 16
    return found


def check_scores(scores: Mapping[str, Tensor]) -> None:
    """Refuse NaN among scores, because it has no order and a wrong number of weights would be kept.

    Raises:
        ValueError: a score of a layer is NaN; the message names the layer.
    """
    for name, score in scores.items():
        if bool((missing := score.isnan()).any()):
            raise ValueError(
                f"the scores of {name!r} are NaN in {int(missing.sum())} of {score.numel()} "
                "places, so that nothing can be chosen by them; look for NaN or infinity in the "
                "weights, the data and the loss"
            )
