"""People's own arrays: one .npz file with x_train, y_train, x_test and y_test.

Layout of x:
    uint8 is pixels, divided by 255 into [0, 1], with bounds (0, 1) unless the caller gives others:
        (N, H, W, C) with C = 1 or 3 is moved to (N, C, H, W); (N, C, H, W) with C = 1 or 3 stays;
        (N, H, W) becomes (N, 1, H, W); (N, F) stays.
    Every other number is taken as it is, as float32, with the bounds the caller gives (None is
        unbounded): (N, C, H, W) images, (N, C, L) series or (N, F) features.
Images (4-D) get per-channel mean and standard deviation of the training split for a `Normalize`
layer; other arrays are taken to be normalised as their owner wants them.
Labels are whole numbers or strings; the distinct ones of y_train, sorted, become 0..C-1.
"""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustprune.run.suggest import did_you_mean
from robustprune.tasks.check import check_bounds, check_examples
from robustprune.tasks.labels import encode_labels
from robustprune.tasks.task import Split, Task

Array = npt.NDArray[Any]
_KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz_task(path: Path, *, bounds: tuple[float, float] | None) -> Task:
    """The task in the file `path`, laid out as this module says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no .npz file, a missing key (with the nearest), an array of objects or of a
            shape or type not listed above, and all that `Task` refuses.
    """
    check_bounds(bounds)
    arrays = read_npz(path)
    pixels = arrays["x_train"].dtype == np.uint8
    if pixels != (arrays["x_test"].dtype == np.uint8):
        raise ValueError(
            f"{path}: x_train is {arrays['x_train'].dtype} and x_test {arrays['x_test'].dtype}; "
            "only uint8 is scaled to [0, 1], so use uint8 in both or in neither"
        )
    x_train, x_test = (to_inputs(arrays[key], where=f"{path}: {key}") for key in _KEYS[::2])
    y_train, y_test, names = encode_labels(arrays["y_train"], arrays["y_test"], where=str(path))
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
    path: Path, *, bounds: tuple[float, float] | None
) -> tuple[Tensor, Tensor, tuple[float, float] | None]:
    """The examples of a file with x_test and y_test, or x and y alone, for a finished network.

    Labels are whole numbers, the network's own class indices; nothing is renumbered.

    Returns:
        x, laid out as this module says, y (N,) int64, and the bounds: (0, 1) for uint8 pixels
        unless others are given.

    Raises:
        FileNotFoundError, ValueError: as `npz_task`; labels that are no whole numbers from 0.
    """
    check_bounds(bounds)
    keys = ("x", "y") if _has(path, "x") else _KEYS[2:]
    x, labels = read_npz(path, keys=keys).values()
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {keys[1]} is {labels.dtype} of shape {labels.shape}; give whole numbers (N,),"
            " the network's class indices"
        )
    if bounds is None and x.dtype == np.uint8:
        bounds = (0.0, 1.0)
    inputs, y = to_inputs(x, where=f"{path}: {keys[0]}"), torch.from_numpy(labels.astype(np.int64))
    classes = int(y.amax()) + 1 if len(y) else 1  # how many the network has is for it to say
    check_examples(inputs, y, num_classes=classes, bounds=bounds, where=str(path))
    return inputs, y, bounds


def _has(path: Path, key: str) -> bool:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return key in archive.files
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        return False  # `read_npz` says what is wrong


def read_npz(path: Path, *, keys: Sequence[str] = _KEYS) -> dict[str, Array]:
    """The arrays `keys` of `path`, inputs and labels in turn, one label per example.

    Raises:
        FileNotFoundError, ValueError: as `npz_task`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give the path of an .npz file")
    try:
        # the file is opened here, since numpy leaves one open that it cannot read
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start == b"\x93NUMPY":
                raise ValueError("it holds a single array")
            if not start.startswith(b"PK"):  # numpy would take it for a pickle, and say so
                raise ValueError("it is no archive of arrays")
            with np.load(file, allow_pickle=False) as archive:
                missing = [key for key in keys if key not in archive.files]
                if not missing:
                    arrays = {key: archive[key] for key in keys}
    except (
        *(ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error),
        # what a damaged archive, or one with sizes beyond any memory, makes of numpy and zipfile
        *(ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError),
        *(NotImplementedError, SyntaxError, struct.error),
    ) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as .npz: {reason}; save plain arrays with "
            f"np.savez(path, {', '.join(f'{key}=...' for key in keys)})"
        ) from error
    if missing:
        raise ValueError(
            f"{path} has no key '{missing[0]}'{did_you_mean(missing[0], archive.files)}; it has "
            f"{', '.join(archive.files) or 'none'}, and needs {', '.join(keys)}"
        )
    for x, y in zip(keys[::2], keys[1::2], strict=True):
        if arrays[x].ndim == 0 or arrays[y].ndim == 0 or len(arrays[x]) != len(arrays[y]):
            raise ValueError(
                f"{path}: {x} has shape {arrays[x].shape} and {y} {arrays[y].shape}; "
                "give one label per example"
            )
    return arrays


def to_inputs(array: Array, *, where: str) -> Tensor:
    """`array` as a float32 tensor in model input units, by the rule at the top of this module.

    Raises:
        ValueError: another number of dimensions or another type than listed there.
    """
    if array.dtype.kind not in "iufb" or array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{where} is {array.dtype} of shape {array.shape}; give numbers of shape "
            "(N, F), (N, C, L), (N, C, H, W) or uint8 (N, H, W, C)"
        )
    if array.dtype != np.uint8:
        with np.errstate(over="ignore"):  # infinity, which `check_examples` refuses
            return torch.from_numpy(array.astype(np.float32))
    x = torch.from_numpy(np.ascontiguousarray(array))
    if x.ndim == 3:
        x = x.unsqueeze(1)
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)
    elif x.ndim == 4 and x.shape[1] not in (1, 3):
        raise ValueError(
            f"{where} is uint8 of shape {array.shape} with neither 1 nor 3 channels; give "
            "(N, H, W, C) or (N, C, H, W), or floats for any number of channels"
        )
    # contiguous before dividing: the bytes are a quarter of the floats to move.
    return x.contiguous().float().div_(255)


def _channel_statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, C, H, W)."""
    # In float64 on one channel at a time: sums over 50,000 images lose digits in float32.
    channels = [x[:, c].double() for c in range(x.shape[1])]
    mean = tuple(float(channel.mean()) for channel in channels)
    std = tuple(float(channel.std(correction=0)) for channel in channels)
    return mean, std
