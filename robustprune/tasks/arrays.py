"""Read the user's own arrays: one .npz file with x_train, y_train, x_test and y_test, or x and y.

uint8 numbers are pixels: they are divided by 255 into [0, 1], and the bounds are (0, 1) unless the
caller gives others. Every other number is converted to float32 without scaling, and the bounds are
those that the caller gives (None for no bounds). Inputs are (N, C, H, W) images, (N, C, L) series
or (N, F) features; `layout` describes how the channels are found. Labels are whole numbers or
strings; the distinct labels of y_train, sorted, become 0..C-1.
"""

from pathlib import Path

import numpy as np

from robustprune.run.naming import data_label
from robustprune.tasks.layout import Layout, layout_of, to_inputs
from robustprune.tasks.npz import Array, keys_of, read_npz
from robustprune.tasks.parts import Bounds, OwnData, Part, at_index

KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz_data(path: Path, *, bounds: Bounds, layout: Layout | None = None) -> OwnData:
    """Read the .npz file `path`, whose format is described at the top of this module.

    A file with x and y has no test split; one with x_test and y_test alone has nothing else.

    Args:
        bounds: the range (low, high) of valid inputs, in input units; None as described there.
        layout: where the channels are; None finds them from the shape, see `layout`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `read_npz` or `to_inputs` refuses the content, or the train and test arrays have
            different layouts.
    """
    there = keys_of(path)
    keys: tuple[str, ...] = KEYS
    if "x_train" not in there and "x" in there:
        keys = ("x", "y")
    elif "x_test" in there and not any("train" in key for key in there):
        keys = KEYS[2:]
    arrays = read_npz(path, keys=keys)
    first = arrays[keys[0]]
    pixels = first.dtype == np.uint8
    # found and warned of only once, because both must have the same shape
    layout = layout_of(first, where=f"{path}: {keys[0]}", layout=layout)
    if keys == KEYS:
        _check_alike(path, first, arrays["x_test"])
    parts = [
        Part(
            to_inputs(arrays[x], where=f"{path}: {x}", layout=layout),
            arrays[y],
            at_index(f"{path}: {y}"),
        )
        for x, y in zip(keys[::2], keys[1::2], strict=True)
    ]
    test = parts[-1] if "x_test" in keys else None
    return OwnData(
        name=data_label(path),
        where=str(path),
        train=None if parts[0] is test else parts[0],
        test=test,
        bounds=(0.0, 1.0) if pixels and bounds is None else bounds,
        source=f"arrays from {path.name}",
    )


def _check_alike(path: Path, train: Array, test: Array) -> None:
    if (train.dtype == np.uint8) != (test.dtype == np.uint8):
        raise ValueError(
            f"{path}: x_train is {train.dtype} and x_test {test.dtype}; "
            "only uint8 is scaled to [0, 1], so use uint8 in both or in neither"
        )
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{path}: test examples have shape {test.shape[1:]}, training examples "
            f"{train.shape[1:]}; make them the same"
        )
