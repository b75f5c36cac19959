"""Split validation examples off the training data."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from robustprune.tasks.task import Split


def held_out(y: Tensor, fraction: float, seed: int) -> Tensor:
    """Choose the examples of a validation split, class by class: (N,) bool on the device of y.

    From the n examples of each class, fraction * n (rounded to the nearest) become validation
    examples, but at least one and at most n - 1, so that both splits have every class of two or
    more examples. A class with one example stays in train.

    Args:
        y: (N,) class indices.
        fraction: the share of the validation split, in (0, 1).
        seed: the seed of the random choice; the same seed gives the same choice on any device.

    Raises:
        ValueError: `fraction` is outside (0, 1), or no class has two examples.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction {fraction} must be in (0, 1), for example 0.2")
    generator = torch.Generator().manual_seed(seed)
    labels = y.cpu()
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().squeeze(1)
        if len(members) < 2:
            continue
        count = min(max(math.floor(fraction * len(members) + 0.5), 1), len(members) - 1)
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    if not held.any():
        raise ValueError(
            f"none of the {len(labels)} examples can be held out: every class has a single "
            "example; give more data"
        )
    return held.to(y.device)


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide `split` into (train, validation) by `held_out`; both keep the order of the examples.

    Raises:
        ValueError: as in `held_out`.
    """
    held = held_out(split.y, fraction, seed)
    return (
        replace(split, x=split.x[~held], y=split.y[~held]),
        replace(split, x=split.x[held], y=split.y[held]),
    )
