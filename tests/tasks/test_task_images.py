"""Image sets from handmade files: idx for MNIST, npz and python batches for CIFAR-10."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from robustprune.tasks import load_task

RNG = np.random.default_rng(0)


def write_idx(file: Path, array: np.ndarray) -> None:
    """`array` (uint8) in LeCun's idx format: type and rank, big-endian sizes, bytes."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    file.write_bytes(head + array.tobytes())


def write_mnist(folder: Path, *, train: int = 20, test: int = 10) -> dict[str, np.ndarray]:
    """The four idx files of `folder`/raw; returns what is in them."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    arrays = {}
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        write_idx(raw / name, array)
    return arrays


def write_cifar(folder: Path, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """CIFAR-10/cifar10.npz with 20 + 10 random images; returns what is in it."""
    arrays = {
        "x_train": RNG.integers(0, 256, (20, 32, 32, 3), np.uint8),
        "y_train": (np.arange(20) % 10).astype(np.uint8),
        "x_test": RNG.integers(0, 256, (10, 32, 32, 3), np.uint8),
        "y_test": np.arange(10, dtype=np.uint8),
    } | changes
    (folder / "CIFAR-10").mkdir()
    np.savez(folder / "CIFAR-10" / "cifar10.npz", **arrays)
    return arrays


@pytest.mark.parametrize(
    ("name", "folder", "classes"),
    [("mnist", "MNIST", "0"), ("fashion_mnist", "FashionMNIST", "T-shirt/top")],
)
def test_idx_files_need_no_download(tmp_path: Path, name: str, folder: str, classes: str) -> None:
    arrays = write_mnist(tmp_path / folder)
    task = load_task(name, data_dir=tmp_path, download=False)
    assert task.input_shape == (1, 28, 28)
    assert (len(task.train), len(task.test)) == (20, 10)
    assert task.class_names[0] == classes
    assert task.bounds == (0.0, 1.0)
    assert task.augment is None
    expected = torch.from_numpy(arrays["t10k-images-idx3-ubyte"]).float()
    torch.testing.assert_close(task.test.x[:, 0] * 255, expected)
    assert task.train.y.tolist() == arrays["train-labels-idx1-ubyte"].tolist()


def test_labels_outside_the_ten_digits_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST")
    labels = np.arange(20, dtype=np.uint8) % 11
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", labels)
    with pytest.raises(
        ValueError, match=r"outside the classes 0\.\.9, the first is 10 at index 10"
    ):
        load_task("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("labels", [19, 21])
def test_fewer_or_more_labels_than_images_are_refused(tmp_path: Path, labels: int) -> None:
    write_mnist(tmp_path / "MNIST")
    array = np.zeros(labels, dtype=np.uint8)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", array)
    with pytest.raises(FileNotFoundError, match=f"x has 20 examples and y has {labels} labels"):
        load_task("mnist", data_dir=tmp_path)


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FileNotFoundError, match="in place of any damaged files"):
        load_task("mnist", data_dir=tmp_path)


def test_missing_files_without_download_say_what_to_put_where(tmp_path: Path) -> None:
    match = r"download is off .*put MNIST/raw/train-images-idx3-ubyte.* into the data folder "
    with pytest.raises(FileNotFoundError, match=match):
        load_task("mnist", data_dir=tmp_path, download=False)


def test_a_failed_download_is_one_line_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: MNIST) -> None:
        print("Downloading")
        raise RuntimeError("Error downloading:\nTried a\nTried b\n")

    monkeypatch.setattr(MNIST, "download", fail)
    with pytest.raises(FileNotFoundError) as refused:
        load_task("mnist", data_dir=tmp_path)
    message = str(refused.value)
    assert "(Error downloading: Tried a Tried b); put MNIST/raw/" in message
    assert "\n" not in message
    assert capsys.readouterr().out == ""


def test_a_data_dir_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_dir .*nowhere is no folder"):
        load_task("mnist", data_dir=tmp_path / "nowhere")


def test_the_environment_names_the_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "MNIST")
    monkeypatch.setenv("ROBUSTPRUNE_DATA", str(tmp_path))
    assert len(load_task("mnist", download=False).train) == 20


def test_cifar_npz_is_scaled_and_moved_to_channels_first(tmp_path: Path) -> None:
    arrays = write_cifar(tmp_path)
    task = load_task("cifar10", data_dir=tmp_path, download=False)
    assert task.input_shape == (3, 32, 32)
    assert task.class_names[3] == "cat"
    assert task.mean == (0.4914, 0.4822, 0.4465)
    assert task.train.y.tolist() == arrays["y_train"].tolist()
    assert float(task.train.x[4, 2, 7, 9]) == pytest.approx(arrays["x_train"][4, 7, 9, 2] / 255)
    assert "20 of its 50000 training and 10 of its 10000 test" in task.source
    assert task.augment is not None


def test_cifar_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (10, 32, 32, 3), np.uint8)

    def init(self: CIFAR10, root: str, train: bool, download: bool) -> None:
        assert (root, download) == (str(tmp_path), True)
        self.data, self.targets = images, list(range(10)) if train else list(range(9, -1, -1))

    monkeypatch.setattr(CIFAR10, "__init__", init)
    task = load_task("cifar10", data_dir=tmp_path)
    torch.testing.assert_close(
        task.train.x, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    )
    assert task.test.y.tolist() == list(range(9, -1, -1))


def test_cifar_npz_with_a_label_of_ten_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, y_test=np.arange(1, 11, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"test split: 1 labels outside the classes 0\.\.9"):
        load_task("cifar10", data_dir=tmp_path)
