"""Refuse data on which training or evaluation would mean nothing, with one complete line each."""

import math

import torch
from torch import Tensor

from attacks.threat import within


def check_examples(
    x: Tensor,
    y: Tensor,
    *,
    num_classes: int,
    bounds: tuple[float, float] | None,
    where: str,
) -> None:
    """Refuse an empty split, non-finite or out-of-bounds values, and labels outside the classes.

    Args:
        x: (N, ...) float32.
        y: (N,) int64.
        num_classes: C; labels must lie in 0..C-1.
        bounds: the range (low, high) of x in input units, inclusive; None accepts every finite
            value.
        where: the place that the message names, such as "task 'mnist', test split".

    Raises:
        ValueError: one of these problems was found.
    """
    if x.numel() == 0:
        raise ValueError(f"{where}: empty, x has shape {tuple(x.shape)}; give at least one example")
    finite = torch.isfinite(x)
    if not finite.all():
        bad = (~finite).nonzero()
        raise ValueError(
            f"{where}: {len(bad)} non-finite values, the first at index {tuple(bad[0].tolist())}; "
            "fill or remove missing values (and series of unequal length) before loading"
        )
    if bounds is not None:
        low, high = bounds
        smallest, largest = (float(v) for v in x.aminmax())
        if not within(x, bounds):
            raise ValueError(
                f"{where}: values from {smallest:g} to {largest:g} leave the bounds "
                f"({low:g}, {high:g}); scale the data or change the bounds"
            )
    outside = ((y < 0) | (y >= num_classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"{where}: {len(outside)} labels outside the classes 0..{num_classes - 1}, the first "
            f"is {int(y[first])} at index {first}; correct the labels"
        )


def check_bounds(bounds: tuple[float, float] | None) -> None:
    """Refuse bounds that are not an interval.

    Raises:
        ValueError: they are not two finite numbers with the lower one first.
    """
    if bounds is None:
        return
    if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
        raise ValueError(
            f"bounds {tuple(bounds)} are no interval; give (low, high) with low < high, or None"
        )


def check_statistics(
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    *,
    channels: int,
    task: str,
) -> None:
    """Refuse a mean and a standard deviation per channel that no `Normalize` layer could use.

    Raises:
        ValueError: only one of the two is given, their length is not `channels`, or a standard
            deviation is not positive.
    """
    if mean is None and std is None:
        return
    if mean is None or std is None:
        raise ValueError(f"task '{task}': mean is {mean}, std is {std}; give both or neither")
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"task '{task}': {len(mean)} means and {len(std)} standard deviations for "
            f"{channels} channels; give one of each per channel"
        )
    if not all(s > 0 for s in std):
        raise ValueError(f"task '{task}': std {std} must be positive; is a channel constant?")
