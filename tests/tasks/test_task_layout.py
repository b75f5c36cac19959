"""Where the channels of an array are: found, said, or asked for."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from robustprune.tasks import load_task
from robustprune.tasks.layout import Layout, to_inputs

KINDS = (np.uint8, np.float32, np.float64)


def array(shape: tuple[int, ...], kind: type) -> np.ndarray:
    count = int(np.prod(shape))
    return (np.arange(count) % 251).reshape(shape).astype(kind)


def values(x: np.ndarray) -> torch.Tensor:
    """What the numbers are in input units."""
    numbers = torch.from_numpy(x.astype(np.float32))
    return numbers / 255 if x.dtype == np.uint8 else numbers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (2, 1, 8, 9), (2, 3, 8, 4)])
def test_images_with_channels_first_stay(shape: tuple[int, ...], kind: type) -> None:
    x = array(shape, kind)
    torch.testing.assert_close(to_inputs(x, where="x"), values(x), atol=0, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 8, 9, 3), (2, 8, 9, 1), (2, 32, 32, 3)])
def test_images_with_channels_last_are_moved_and_it_is_said(
    shape: tuple[int, ...], kind: type
) -> None:
    x = array(shape, kind)
    with pytest.warns(match=r"is taken for images \(N, H, W, C\); confirm it by .*channels_last"):
        moved = to_inputs(x, where="x")
    torch.testing.assert_close(moved, values(x).permute(0, 3, 1, 2), atol=0, rtol=1e-6)
    assert moved.is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 3), (2, 1, 8, 1), (2, 3, 3, 3), (2, 8, 8, 5)])
def test_images_that_may_be_either_are_asked_about(shape: tuple[int, ...], kind: type) -> None:
    x = array(shape, kind)
    with pytest.raises(ValueError, match="say which by the option layout"):
        to_inputs(x, where="x")
    assert to_inputs(x, where="x", layout="channels_first").shape == shape
    last = to_inputs(x, where="x", layout="channels_last")
    torch.testing.assert_close(last, values(x).movedim(-1, 1), atol=0, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_many_channels_are_taken_first_and_it_is_said(kind: type) -> None:
    with pytest.warns(match=r"taken for images \(N, C, H, W\) of 16 channels"):
        assert to_inputs(array((2, 16, 8, 9), kind), where="x").shape == (2, 16, 8, 9)


@pytest.mark.parametrize(
    ("shape", "said", "expected"),
    [
        ((4, 1, 96), None, (4, 1, 96)),
        ((4, 6, 96), None, (4, 6, 96)),
        ((4, 1, 1), None, (4, 1, 1)),
        ((4, 96, 1), r"series \(N, L, C\) of one channel", (4, 1, 96)),
        ((4, 96, 6), r"series \(N, C, L\) of 96 channels and 6 steps", (4, 96, 6)),
        ((4, 28, 28), r"series \(N, C, L\) of 28 channels and 28 steps", (4, 28, 28)),
    ],
)
def test_series_are_taken_as_documented_and_what_is_odd_is_said(
    shape: tuple[int, ...], said: str | None, expected: tuple[int, ...]
) -> None:
    x = array(shape, np.float32)
    if said is None:
        assert to_inputs(x, where="x").shape == expected
        return
    with pytest.warns(match=said):
        assert to_inputs(x, where="x").shape == expected


def test_a_stated_layout_is_kept_without_a_word() -> None:
    x = array((4, 28, 20), np.uint8)
    assert to_inputs(x, where="x").shape == (4, 1, 28, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_inputs(x, where="x", layout="channels_first").shape == (4, 28, 20)
        moved = to_inputs(x, where="x", layout="channels_last")
    torch.testing.assert_close(moved, values(x).transpose(1, 2))


@pytest.mark.parametrize(
    ("layout", "match"),
    [("chanels_last", "did you mean 'channels_last'"), ("channels_last", "leave out layout")],
)
def test_a_layout_that_means_nothing_is_refused(layout: Layout, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        to_inputs(np.zeros((4, 5)), where="x", layout=layout)


def test_a_task_says_its_layout_once_and_takes_the_option(tmp_path: Path) -> None:
    x, y = array((4, 8, 8, 3), np.float32), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.warns(match="x_train of shape") as said:
        guessed = load_task("npz", path=tmp_path / "a.npz")
    assert len(said) == 1
    stated = load_task("npz", path=tmp_path / "a.npz", layout="channels_last")
    assert torch.equal(guessed.test.x, stated.test.x)
    assert stated.mean is not None
    assert len(stated.mean) == 3
    with pytest.raises(ValueError, match="'ecg200' takes no layout"):
        load_task("ecg200", layout="channels_first")
    with pytest.raises(ValueError, match="layout='channels_last' is not for series from text"):
        load_task("csv", path=tmp_path, layout="channels_last")
