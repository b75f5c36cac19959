"""Read the user's own arrays: one .npz file with x_train, y_train, x_test and y_test.

uint8 numbers are pixels: they are divided by 255 into [0, 1], and the bounds are (0, 1) unless the
caller gives others. Every other number is converted to float32 without scaling, and the bounds are
those that the caller gives (None for no bounds). Inputs are (N, C, H, W) images, (N, C, L) series
or (N, F) features; `layout` describes how the channels are found. Images (4-D) come with the mean
and standard deviation of each channel of the training split, for a `Normalize` layer; other arrays
are expected to be normalised already. Labels are whole numbers or strings; the distinct labels of
y_train, sorted, become 0..C-1.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustprune.tasks.check import check_bounds, check_examples
from robustprune.tasks.labels import encode_labels
from robustprune.tasks.layout import Layout, layout_of, to_inputs
from robustprune.tasks.npz import has_key, read_npz
from robustprune.tasks.task import Split, Task

KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz_task(
    path: Path, *, bounds: tuple[float, float] | None, layout: Layout | None = None
) -> Task:
    """Load the task in the .npz file `path`, whose format is described at the top of this module.

    Args:
        bounds: the range (low, high) of valid inputs, in input units; None as described there.
        layout: where the channels are; None finds them from the shape, see `layout`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `read_npz`, `to_inputs`, `encode_labels` or `Task` refuses the content, or the
            train and test arrays have different layouts.
    """
    check_bounds(bounds)
    arrays = read_npz(path, keys=KEYS)
    pixels = arrays["x_train"].dtype == np.uint8
    if pixels != (arrays["x_test"].dtype == np.uint8):
        raise ValueError(
            f"{path}: x_train is {arrays['x_train'].dtype} and x_test {arrays['x_test'].dtype}; "
            "only uint8 is scaled to [0, 1], so use uint8 in both or in neither"
        )
    # found and warned of only once, because both must have the same shape
    layout = layout_of(arrays["x_train"], where=f"{path}: x_train", layout=layout)
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise ValueError(
            f"{path}: test examples have shape {arrays['x_test'].shape[1:]}, training examples "
            f"{arrays['x_train'].shape[1:]}; make them the same"
        )
    x_train, x_test = (
        to_inputs(arrays[key], where=f"{path}: {key}", layout=layout) for key in KEYS[::2]
    )
    y_train, y_test, names = encode_labels(
        arrays["y_train"],
        arrays["y_test"],
        where=str(path),
        at=lambda part, index: f"{path}: y_{part}, index {index}",
    )
    mean, std = None, None
    if x_train.ndim == 4 and x_train.numel():
        mean, std = _channel_statistics(x_train)
    return Task(
        name="npz",
        train=Split(x_train, y_train),
        test=Split(x_test, y_test),
        num_classes=len(names),
        class_names=names,
        bounds=(0.0, 1.0) if pixels and bounds is None else bounds,
        mean=mean,
        std=std,
        augment=None,
        source=f"arrays from {path.name}",
    )


def npz_examples(
    path: Path, *, bounds: tuple[float, float] | None, layout: Layout | None = None
) -> tuple[Tensor, Tensor, tuple[float, float] | None]:
    """Load examples for a finished network: x_test and y_test of a file, or x and y where it has x.

    Labels are whole numbers, which are the class indices of the network; they are not renumbered.

    Returns:
        x with the shape that this module describes, y (N,) int64, and the bounds: those that were
        given, or else (0, 1) for uint8 pixels and None for other numbers.

    Raises:
        FileNotFoundError, ValueError: as in `npz_task`, or the labels are not whole numbers from 0.
    """
    check_bounds(bounds)
    keys = ("x", "y") if has_key(path, "x") else KEYS[2:]
    x, labels = read_npz(path, keys=keys).values()
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {keys[1]} is {labels.dtype} of shape {labels.shape}; give whole numbers (N,),"
            " the network's class indices"
        )
    if bounds is None and x.dtype == np.uint8:
        bounds = (0.0, 1.0)
    inputs = to_inputs(x, where=f"{path}: {keys[0]}", layout=layout)
    y = torch.from_numpy(labels.astype(np.int64))
    classes = int(y.amax()) + 1 if len(y) else 1  # only the network knows its number of classes
    check_examples(inputs, y, num_classes=classes, bounds=bounds, where=str(path))
    return inputs, y, bounds


def _channel_statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the mean and the standard deviation of each channel of (N, C, H, W)."""
    # In float64 on one channel at a time: sums over 50,000 images lose digits in float32.
    channels = [x[:, c].double() for c in range(x.shape[1])]
    mean = tuple(float(channel.mean()) for channel in channels)
    std = tuple(float(channel.std(correction=0)) for channel in channels)
    return mean, std
