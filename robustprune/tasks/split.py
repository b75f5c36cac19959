"""Divide examples: hold some out for validation, and deal out what lies class after class."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from robustprune.tasks.task import Split, Task


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


def dealing(y: Tensor) -> Tensor | None:
    """Return an order in which the classes are dealt out, so that the first n examples have them
    nearly in their shares, for any n; None where the given order is mixed already.

    The j-th of the n_c examples of a class comes at (j + ½) / n_c. An order counts as mixed if its
    class changes from one example to the next at least a quarter as often as it would at random.

    Args:
        y: (N,) class indices.

    Returns:
        (N,) int64, the examples in their new order.
    """
    labels = y.cpu()
    count = torch.bincount(labels).double()
    at_random = (len(labels) - 1) * (1 - float((count / len(labels)).square().sum()))
    if 4 * int((labels[1:] != labels[:-1]).sum()) >= at_random:
        return None
    by_class = labels.argsort(stable=True)
    begin = (count.cumsum(0) - count)[labels[by_class]]
    place = torch.empty(len(labels), dtype=torch.float64)
    place[by_class] = (torch.arange(len(labels)) - begin + 0.5) / count[labels[by_class]]
    return place.argsort(stable=True)


def dealt(split: Split) -> Split:
    """Return a split whose first n examples show its classes; see `dealing`."""
    order = dealing(split.y)
    if order is None:
        return split
    return replace(split, x=split.x[order], y=split.y[order])


def dealt_task(task: Task) -> Task:
    """Return a task whose splits are `dealt`, which says so in its source."""
    train, test = dealt(task.train), dealt(task.test)
    if train is task.train and test is task.test:
        return task
    order, texts = dealing(task.test.y), task.texts
    if order is not None and texts is not None:
        texts = tuple(texts[i] for i in order.tolist())
    return replace(
        task,
        train=train,
        test=test,
        texts=texts,
        places=order,
        source=f"{task.source}; it lists class after class, so the classes are dealt out in turn",
    )
