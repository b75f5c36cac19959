"""Read the data set CIFAR-10-C: the test images of CIFAR-10, corrupted by its authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustprune.run.files import plain_file
from robustprune.run.terminal import shown

#: the folder in the data folder, the number of severities, and of images in each
FOLDER, SEVERITIES, IMAGES = "CIFAR-10-C", 5, 10_000


def cifar10_c(folder: Path, y: Tensor) -> dict[str, Tensor]:
    """Return the first N images of every corruption and severity: name -> (5, N, 3, 32, 32).

    Hendrycks & Dietterich 2019, arXiv 1903.12261. Each file has 5 × 10,000 images as uint8, one
    severity after another, and labels.npy their labels.

    Args:
        folder: the folder CIFAR-10-C.
        y: (N,) the labels of the first test images, which those of labels.npy must equal.

    Raises:
        ValueError: a file is damaged or has another shape, or the labels differ, so that the test
            images of the task are not those of CIFAR-10 in the published order.
    """
    labels, number = _array(folder / "labels.npy", 1), len(y)
    wanted = y.cpu().numpy()
    for severity in range(SEVERITIES):
        begin = severity * IMAGES
        if number > IMAGES or not np.array_equal(labels[begin : begin + number], wanted):
            raise ValueError(
                f"{folder} has other labels than the task's first {number} test images; "
                "CIFAR-10-C needs the test images of CIFAR-10 in their published order"
            )
    found = {}
    for path in sorted(folder.glob("*.npy")):
        if path.name == "labels.npy":
            continue
        images = _array(path, 4)
        parts = [images[s * IMAGES : s * IMAGES + number] for s in range(SEVERITIES)]
        stacked = torch.from_numpy(np.stack(parts)).permute(0, 1, 4, 2, 3)
        found[path.stem] = stacked.float() / 255
    if not found:
        raise ValueError(f"{folder} has no corrupted images, only labels")
    return found


def _array(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Open an array on the disk; only what is used of it is read."""
    plain_file(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no array of numpy ({shown(error)})") from error
    shape = (SEVERITIES * IMAGES, 32, 32, 3)[:dimensions]
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError(f"{path} must have the shape {shape}, as in CIFAR-10-C")
    if dimensions > 1 and array.dtype != np.uint8:
        raise ValueError(f"{path} has dtype {array.dtype}; CIFAR-10-C has uint8")
    return array
