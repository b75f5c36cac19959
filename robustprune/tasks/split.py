"""Taking a validation split off the training data, and naming data by their content."""

import hashlib
import math
from dataclasses import replace

import torch
from torch import Tensor

from robustprune.tasks.task import Split


def held_out(y: Tensor, fraction: float, seed: int) -> Tensor:
    """(N,) bool on y's device: which examples a validation split takes, class by class.

    Of each class's n examples, fraction * n rounded to the nearest go to validation, but at least
    one and at most n - 1, so that both sides have every class of two examples or more; a class
    with one example stays in train.

    Args:
        y: (N,) class indices.
        fraction: share of the validation split, in (0, 1).
        seed: the same seed draws the same examples, on any device.

    Raises:
        ValueError: a fraction outside (0, 1), or no class with two examples.
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
    """Divide `split` into (train, validation) by `held_out`; both keep its order.

    Raises:
        ValueError: as `held_out`.
    """
    held = held_out(split.y, fraction, seed)
    return (
        replace(split, x=split.x[~held], y=split.y[~held]),
        replace(split, x=split.x[held], y=split.y[held]),
    )


def digest(split: Split) -> str:
    """SHA-256, in hexadecimal, of shape and content of x and y: equal data, equal digest."""
    sha = hashlib.sha256()
    for tensor in (split.x, split.y):
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()
