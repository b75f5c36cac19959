"""Load MNIST, Fashion-MNIST and CIFAR-10 from a data folder or by torchvision's download.

The data folder has this layout, in which nothing may be a symbolic link:
    MNIST/raw, FashionMNIST/raw   the four idx files, as torchvision keeps them
    CIFAR-10/cifar10.npz          x_train, y_train, x_test, y_test (uint8, NHWC); used if present
    cifar-10-batches-py           torchvision's own copy of CIFAR-10; used otherwise
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from robustprune.run.terminal import shown
from robustprune.tasks.arrays import KEYS
from robustprune.tasks.augment import crop_and_flip
from robustprune.tasks.folders import data_folder
from robustprune.tasks.idx import read_idx
from robustprune.tasks.layout import to_inputs
from robustprune.tasks.npz import read_npz
from robustprune.tasks.series_files import there
from robustprune.tasks.task import Split, Task

_CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def mnist(*, data_dir: Path | None, download: bool) -> Task:
    """Handwritten digits: 60,000 training and 10,000 test images of shape (1, 28, 28) in [0, 1].

    LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998.

    It raises what `load_task` raises.
    """
    train, test = _idx_splits("MNIST", data_dir, download)
    return Task(
        name="mnist",
        train=train,
        test=test,
        num_classes=10,
        class_names=tuple("0123456789"),
        bounds=(0.0, 1.0),
        mean=(0.1307,),
        std=(0.3081,),
        augment=None,
        source="MNIST; LeCun et al., Gradient-based learning applied to document recognition, 1998",
    )


def fashion_mnist(*, data_dir: Path | None, download: bool) -> Task:
    """Pictures of clothes: 60,000 training and 10,000 test images of shape (1, 28, 28) in [0, 1].

    Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747. It raises what `load_task` raises.
    """
    train, test = _idx_splits("FashionMNIST", data_dir, download)
    return Task(
        name="fashion_mnist",
        train=train,
        test=test,
        num_classes=10,
        class_names=_FASHION_CLASSES,
        bounds=(0.0, 1.0),
        mean=(0.2860,),
        std=(0.3530,),
        augment=None,
        source="Fashion-MNIST; Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747",
    )


def cifar10(*, data_dir: Path | None, download: bool) -> Task:
    """Photographs of ten classes: 50,000 training and 10,000 test images (3, 32, 32) in [0, 1].

    Training batches are cropped and flipped at random. CIFAR-10/cifar10.npz in the data folder may
    hold fewer images; `source` says how many.

    Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    It raises what `load_task` raises.
    """
    folder = data_folder(data_dir)
    file = folder / "CIFAR-10" / "cifar10.npz"
    if there(file):
        train, test = _from_npz(file, folder)
    else:
        from torchvision.datasets import CIFAR10

        def read(train: bool) -> Split:
            part = CIFAR10(root=str(folder), train=train, download=download)
            x = to_inputs(part.data, where="images", layout="channels_last")
            return Split(x, torch.tensor(part.targets))

        train, test = _or_told("CIFAR-10", read, folder, download, wanted="CIFAR-10/cifar10.npz")
    return Task(
        name="cifar10",
        train=train,
        test=test,
        num_classes=10,
        class_names=_CIFAR_CLASSES,
        bounds=(0.0, 1.0),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augment=crop_and_flip,
        source=(
            f"CIFAR-10, {len(train)} of its 50000 training and {len(test)} of its 10000 test "
            "images; Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
        ),
    )


def _from_npz(file: Path, folder: Path) -> tuple[Split, Split]:
    """Read train and test from a file with the format of cifar10.npz.

    Raises:
        ValueError: `read_npz` refuses the file, or the arrays are no images with whole numbers as
            labels.
    """
    arrays = read_npz(file, keys=KEYS, within=folder)
    splits = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim != 4 or y.dtype.kind not in "iu" or y.ndim != 1:
            raise ValueError(
                f"{file}: x_{part} is {x.dtype} of shape {x.shape} and y_{part} {y.dtype} of shape "
                f"{y.shape}; give uint8 (N, 32, 32, 3) and whole numbers (N,)"
            )
        inputs = to_inputs(x, where=f"{file}: x_{part}", layout="channels_last")
        splits.append(Split(inputs, torch.from_numpy(y.astype(np.int64))))
    return splits[0], splits[1]


def _idx_splits(name: str, data_dir: Path | None, download: bool) -> tuple[Split, Split]:
    """Read the train and test split `name` of torchvision from <data folder>/<name>/raw."""
    folder = data_folder(data_dir)

    def read(train: bool) -> Split:
        prefix = "train" if train else "t10k"
        files = [
            folder / name / "raw" / f"{prefix}-{kind}-ubyte"
            for kind in ("images-idx3", "labels-idx1")
        ]
        if not all(there(file) for file in files):
            from torchvision import datasets

            getattr(datasets, name)(root=str(folder), train=train, download=download)
        x, y = (
            read_idx(file, dims=dims, within=folder)
            for file, dims in zip(files, (3, 1), strict=True)
        )
        return Split(to_inputs(x, where=name), torch.from_numpy(y.astype(np.int64)))

    wanted = (
        f"{name}/raw/train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (unpacked)"
    )
    return _or_told(name, read, folder, download, wanted=wanted)


def _or_told(
    name: str, read: Callable[[bool], Split], folder: Path, download: bool, *, wanted: str
) -> tuple[Split, Split]:
    """Call `read` for train and for test, and report a failure in one line.

    Raises:
        FileNotFoundError: the files `wanted` are missing or damaged and were not downloaded.
    """
    try:
        # torchvision prints progress, which belongs on stderr and not in a program's output.
        with contextlib.redirect_stdout(sys.stderr):
            return read(True), read(False)
    except (RuntimeError, OSError, ValueError, TypeError, AssertionError, EOFError) as error:
        reason = shown(" ".join(str(error).split()), 400) or type(error).__name__
        tried = "downloaded or read" if download else "read, and download is off"
        raise FileNotFoundError(
            f"{name} could not be {tried} ({reason}); put {wanted} into the data folder {folder} "
            "in place of any damaged files, or name another data_dir"
        ) from error
