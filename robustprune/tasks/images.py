"""MNIST, Fashion-MNIST and CIFAR-10, from a data folder or through torchvision's download.

Layout of the data folder:
    MNIST/raw, FashionMNIST/raw   the four idx files, as torchvision keeps them
    CIFAR-10/cifar10.npz          x_train, y_train, x_test, y_test (uint8, NHWC); used where present
    cifar-10-batches-py           torchvision's own copy of CIFAR-10, otherwise
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robustprune.tasks.arrays import read_npz, to_inputs
from robustprune.tasks.augment import crop_and_flip
from robustprune.tasks.folders import data_folder
from robustprune.tasks.task import Split, Task

_CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def mnist(*, data_dir: Path | None, download: bool) -> Task:
    """Handwritten digits: 60,000 + 10,000 of (1, 28, 28) in [0, 1].

    LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998.
    Raises as `load_task`.
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
    """Pictures of clothes: 60,000 + 10,000 of (1, 28, 28) in [0, 1].

    Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747. Raises as `load_task`.
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
    """Photographs of ten classes: 50,000 + 10,000 of (3, 32, 32) in [0, 1], crop and flip.

    CIFAR-10/cifar10.npz in the data folder may hold fewer; `source` says how many.

    Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. Raises as `load_task`.
    """
    folder = data_folder(data_dir)
    file = folder / "CIFAR-10" / "cifar10.npz"
    if file.is_file():
        arrays = read_npz(file)
        train, test = (
            Split(
                to_inputs(arrays[f"x_{part}"], where=f"{file}: x_{part}"),
                torch.from_numpy(arrays[f"y_{part}"]).long(),
            )
            for part in ("train", "test")
        )
    else:
        from torchvision.datasets import CIFAR10

        train, test = _from_torchvision(
            "CIFAR-10",
            CIFAR10,
            lambda part: Split(to_inputs(part.data, where="images"), torch.tensor(part.targets)),
            folder=folder,
            download=download,
            wanted="CIFAR-10/cifar10.npz",
        )
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


def _idx_splits(name: str, data_dir: Path | None, download: bool) -> tuple[Split, Split]:
    """Train and test of torchvision's `name`, from the idx files in <data folder>/<name>/raw."""
    from torchvision import datasets

    return _from_torchvision(
        name,
        getattr(datasets, name),
        lambda part: Split(part.data.unsqueeze(1).float().div_(255), part.targets.long()),
        folder=data_folder(data_dir),
        download=download,
        wanted=(
            f"{name}/raw/train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (unpacked)"
        ),
    )


def _from_torchvision(
    name: str,
    dataset: Callable[..., Any],
    to_split: Callable[[Any], Split],
    *,
    folder: Path,
    download: bool,
    wanted: str,
) -> tuple[Split, Split]:
    """(train, test) of torchvision's `dataset` with root `folder`, its failures in one line.

    Raises:
        FileNotFoundError: the files `wanted` are missing or damaged and were not downloaded.
    """
    try:
        # What torchvision prints belongs to the progress on stderr, never to a program's output.
        with contextlib.redirect_stdout(sys.stderr):
            train, test = (
                to_split(dataset(root=str(folder), train=part, download=download))
                for part in (True, False)
            )
    except (RuntimeError, OSError, ValueError, TypeError, AssertionError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        tried = "downloaded or read" if download else "read, and download is off"
        raise FileNotFoundError(
            f"{name} could not be {tried} ({reason}); put {wanted} into the data folder {folder} "
            "in place of any damaged files, or name another data_dir"
        ) from error
    return train, test
