"""Turn what the readers of the user's own files return into a task, or into examples alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustprune.run.terminal import shown
from robustprune.tasks.check import check_bounds, check_examples
from robustprune.tasks.labels import Labels, encode_labels
from robustprune.tasks.split import dealing, held_out
from robustprune.tasks.task import Split, Task

Bounds = tuple[float, float] | None
#: the seed of the examples that are held out for the test, so that all runs have the same ones
_SEED = 0


@dataclass(frozen=True, eq=False)
class Part:
    """The examples of one file or folder, with their labels as they are written.

    Attributes:
        x: (N, ...) float32 in input units.
        labels: (N,) whole numbers or strings.
        at: a function from the index of a label to its place, for messages.
    """

    x: Tensor
    labels: Labels
    at: Callable[[int], str]


@dataclass(frozen=True, eq=False)
class OwnData:
    """The content of the user's files.

    Attributes:
        name: the name of the task.
        where: the place of the files, for messages.
        train: the training examples, or all examples if `test` is None; None if there are none.
        test: the test examples, if the files have a test split.
        bounds: the range of valid inputs, or None.
        source: a text that says where the data come from.
        checked: whether the labels were checked already, see `labels.check_labels`.
    """

    name: str
    where: str
    train: Part | None
    test: Part | None
    bounds: Bounds
    source: str
    checked: bool = False


def own_task(data: OwnData, *, share: float | None) -> Task:
    """Make the task of the user's own data.

    Images (N, C, H, W) come with the mean and the standard deviation of each channel of the
    training split, for a `Normalize` layer.

    Args:
        share: the share of the examples that become the test split, if the files have none; see
            `split.held_out`. The choice is the same for every run.

    Raises:
        ValueError: there is no test split and `share` is None, or the other way round; or
            `encode_labels` or `Task` refuses the data.
    """
    train, x_test, y_test, names = _splits(data, share)
    mean, std = None, None
    if train.x.ndim == 4 and train.x.numel():
        mean, std = channel_statistics(train.x)
    return Task(
        name=data.name,
        train=train,
        test=Split(x_test, y_test),
        num_classes=len(names),
        class_names=names,
        bounds=data.bounds,
        mean=mean,
        std=std,
        augment=None,
        source=data.source,
    )


def own_examples(data: OwnData, *, share: float | None) -> tuple[Tensor, Tensor]:
    """Return the examples on which a finished network is measured, x (N, ...) and y (N,) int64.

    These are the test examples, or the held-out ones if `share` is given, or else all. Where there
    is a training split, labels are numbered by its classes, as for a run. Otherwise whole numbers
    from 0 are the network's class indices, and names are numbered in sorted order, which a warning
    says. Where the files list class after class, the classes are dealt out, as in `load_task`.

    Raises:
        ValueError: as in `own_task`, but there need be no test split.
    """
    check_bounds(data.bounds)
    if data.train is not None and (data.test is not None or share is not None):
        _, x, y, names = _splits(data, share)
        if names != tuple(str(index) for index in range(len(names))):
            _say_classes(data.where, names)
    else:
        part = data.test or data.train
        assert part is not None, "readers return at least one part"
        x = part.x
        y, _, names = encode_labels(
            part.labels, part.labels, where=data.where, at=lambda _, i: part.at(i),
            checked=data.checked,
        )  # fmt: skip
        if all(name.isdecimal() for name in names):
            y = torch.tensor([int(name) for name in names])[y]
        else:
            _say_classes(data.where, names)
    classes = int(y.amax()) + 1 if len(y) else 1  # only the network knows its number of classes
    check_examples(x, y, num_classes=classes, bounds=data.bounds, where=data.where)
    order = dealing(y)
    return (x, y) if order is None else (x[order], y[order])


def channel_statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the mean and the standard deviation of each channel of (N, C, H, W)."""
    # In float64 on one channel at a time: sums over 50,000 images lose digits in float32.
    channels = [x[:, c].double() for c in range(x.shape[1])]
    mean = tuple(float(channel.mean()) for channel in channels)
    std = tuple(float(channel.std(correction=0)) for channel in channels)
    return mean, std


def _splits(data: OwnData, share: float | None) -> tuple[Split, Tensor, Tensor, tuple[str, ...]]:
    """Return the training split, x and y of the test split, and the names of the classes."""
    check_bounds(data.bounds)
    train, test = data.train, data.test
    if train is None:
        raise ValueError(f"{data.where} has test examples alone; a run needs training examples")
    if test is not None and share is not None:
        raise ValueError(f"{data.where} has a test split of its own; leave out the option test")
    if test is None and share is None:
        raise ValueError(
            f"{data.where} has no test split; set the option test to the share of its "
            f"{len(train.x):,} examples to hold out, such as test=0.2"
        )
    parts = {"train": train, "test": test or train}
    y_train, y_test, names = encode_labels(
        parts["train"].labels, parts["test"].labels, where=data.where,
        at=lambda part, index: parts[part].at(index), checked=data.checked,
    )  # fmt: skip
    if test is not None:
        return Split(train.x, y_train), test.x, y_test, names
    assert share is not None
    held = held_out(y_train, share, _SEED)
    return Split(train.x[~held], y_train[~held]), train.x[held], y_train[held], names


def _say_classes(where: str, names: Sequence[str]) -> None:
    said = ", ".join(f"{shown(name, 40)} is {index}" for index, name in enumerate(names[:5]))
    more = f", ... {len(names) - 5} more" if len(names) > 5 else ""
    warnings.warn(
        f"{where}: labels are taken for the network's classes in sorted order: {said}{more}",
        stacklevel=2,
    )


def at_index(where: str) -> Callable[[int], str]:
    """Return a function that names the place of an example in an array."""
    return lambda index: f"{where}, index {index}"


def text_labels(labels: Sequence[str]) -> Labels:
    """Return labels as an array of strings."""
    return np.array(list(labels), dtype=np.str_)
