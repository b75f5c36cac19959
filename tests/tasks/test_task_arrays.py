"""The .npz task: its layout rule and what it refuses."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustprune.tasks import load_task


def write(file: Path, *, drop: str | None = None, **changes: Any) -> Path:
    """A valid file of 4 + 2 vectors with 3 features, but for `changes` and the key `drop`."""
    arrays = {
        "x_train": np.arange(12, dtype=np.float64).reshape(4, 3),
        "y_train": np.array([0, 1, 1, 0]),
        "x_test": np.zeros((2, 3), dtype=np.float32),
        "y_test": np.array([1, 0]),
    } | changes
    np.savez(file, **{key: array for key, array in arrays.items() if key != drop})
    return file


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_floats_are_taken_as_given(tmp_path: Path) -> None:
    task = load_task("npz", path=write(tmp_path / "a.npz"), bounds=(-1.0, 11.0))
    assert task.input_shape == (3,)
    assert task.bounds == (-1.0, 11.0)
    assert task.train.x.tolist() == np.arange(12.0).reshape(4, 3).tolist()
    assert (task.mean, task.std) == (None, None)
    assert load_task("npz", path=tmp_path / "a.npz").bounds is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 9, 3), (3, 8, 9)),
        ((8, 9, 1), (1, 8, 9)),
        ((3, 8, 9), (3, 8, 9)),
        ((8, 9), (1, 8, 9)),
        ((8,), (8,)),
    ],
)
def test_uint8_is_pixels(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    x = pixels(4, *shape)
    path, last = write(tmp_path / "a.npz", x_train=x, x_test=x[:2]), len(shape) == 3 != shape[0]
    with pytest.warns(match="taken for images") if last else nullcontext():
        task = load_task("npz", path=path)
    assert task.input_shape == expected
    assert task.bounds == (0.0, 1.0)
    image = task.train.x[2] if len(shape) < 3 or shape[0] == 3 else task.train.x[2].movedim(0, -1)
    np.testing.assert_allclose(image.reshape(shape).numpy() * 255, x[2], atol=1e-4)


def test_images_get_statistics_of_the_training_split(tmp_path: Path) -> None:
    x = pixels(4, 8, 9, 3)
    path = write(tmp_path / "a.npz", x_train=x, x_test=x[:2] // 2)
    task = load_task("npz", path=path, layout="channels_last")
    assert task.mean == pytest.approx((x / 255.0).mean(axis=(0, 1, 2)))
    assert task.std == pytest.approx((x / 255.0).std(axis=(0, 1, 2)))


def test_labels_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    words = {"y_train": np.array(["on", "off", "on", "on"]), "y_test": np.array(["off", "on"])}
    task = load_task("npz", path=write(tmp_path / "a.npz", **words))
    assert task.class_names == ("off", "on")
    assert task.train.y.tolist() == [1, 0, 1, 1]
    numbers = {"y_train": np.array([7.0, -2, 7, 7]), "y_test": np.array([-2, 7])}
    task = load_task("npz", path=write(tmp_path / "b.npz", **numbers))
    assert task.class_names == ("-2", "7")
    assert task.test.y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x_train": np.full((4, 3), np.nan)}, r"train split: 12 non-finite .* \(0, 0\)"),
        ({"y_test": np.array([1, 5])}, r"test split: 1 labels outside .* '5' at .*y_test, index 1"),
        ({"y_train": np.array([0, 1])}, r"x_train has shape \(4, 3\) and y_train \(2,\)"),
        ({"y_train": np.ones(4, int), "y_test": np.ones(2, int)}, "single class, '1'"),
        ({"y_train": np.eye(4)}, r"train labels have shape \(4, 4\)"),
        ({"y_train": np.array([0.5, 1, 1, 0])}, "float64 and not whole numbers or strings"),
        ({"y_train": np.array(["a", "b", "a", "b"])}, "numbers in both or strings in both"),
        ({"x_test": np.zeros((2, 4))}, r"test examples have shape \(4,\), .* \(3,\)"),
        ({"x_test": np.zeros((2, 3), np.uint8)}, "use uint8 in both or in neither"),
        ({"x_train": np.zeros((0, 3)), "y_train": np.zeros(0)}, "train split: empty"),
        ({"x_test": np.zeros((0, 3)), "y_test": np.zeros(0)}, "test split: empty"),
        ({"x_train": np.array([["a"] * 3] * 4)}, r"x_train is <U1 of shape \(4, 3\)"),
        ({"x_train": np.zeros((4, 1, 1, 1, 1))}, r"x_train is float64 of shape \(4, 1, 1, 1, 1\)"),
        ({"x_train": pixels(4, 8, 8, 5), "x_test": pixels(2, 8, 8, 5)}, "may be images"),
        ({"y_train": np.array([None, 1, 0, 1], dtype=object)}, r"cannot be read as \.npz"),
    ],
)
def test_malformed_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    file = write(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=match) as refused:
        load_task("npz", path=file)
    assert "\n" not in str(refused.value)


def test_a_missing_key_suggests_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz", drop="x_train", X_train=np.zeros((4, 3)))
    match = r"has no key 'x_train' \(did you mean 'X_train'\?\)"
    with pytest.raises(ValueError, match=match):
        load_task("npz", path=file)


def test_values_outside_the_given_bounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 11 leave the bounds \(0, 1\)"):
        load_task("npz", path=write(tmp_path / "a.npz"), bounds=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"bounds \(1\.0, 0\.0\) are no interval"):
        load_task("npz", path=tmp_path / "a.npz", bounds=(1.0, 0.0))


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*b\.npz"):
        load_task("npz", path=tmp_path / "b.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz cannot be read as \.npz: it is no archive"):
        load_task("npz", path=tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="it holds a single array"):
        load_task("npz", path=tmp_path / "one.npy")


def test_arguments_of_npz_are_refused_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs path"):
        load_task("npz")
    with pytest.raises(ValueError, match="'ecg200' takes no path"):
        load_task("ecg200", path=tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"'mnist' takes no bounds, got \(0\.0, 1\.0\)"):
        load_task("mnist", bounds=(0.0, 1.0))


def test_an_unknown_name_suggests_the_nearest() -> None:
    match = r"unknown task 'ecg20' \(did you mean 'ecg200'\?\); use one of ag_news, "
    with pytest.raises(ValueError, match=match):
        load_task("ecg20")


def test_the_result_is_contiguous_float32(tmp_path: Path) -> None:
    x = np.asfortranarray(pixels(4, 8, 9, 3))
    path = write(tmp_path / "a.npz", x_train=x, x_test=x[:2])
    task = load_task("npz", path=path, layout="channels_last")
    assert task.train.x.dtype == torch.float32
    assert task.train.x.is_contiguous()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_whole_labels_in_any_float(kind: type, tmp_path: Path) -> None:
    x, y = np.zeros((4, 3), dtype=np.float32), np.array([0, 7, 0, 7], dtype=kind)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert load_task("npz", path=tmp_path / "a.npz").class_names == ("0", "7")
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y / 2, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="not whole numbers"):
        load_task("npz", path=tmp_path / "b.npz")


def test_no_examples_are_said_to_be_none_in_any_layout(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 3, 2)), y=np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="empty; give at least one example"):
        load_task("npz", path=tmp_path / "a.npz", layout="flat", test=0.5)
