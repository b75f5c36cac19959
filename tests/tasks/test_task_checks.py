"""What a Split and a Task refuse."""

from dataclasses import replace

import pytest
import torch

from robustprune.tasks import Split, Task


def make_task(
    *,
    x: torch.Tensor | None = None,
    y: torch.Tensor | None = None,
    bounds: tuple[float, float] | None = None,
) -> Task:
    """A valid task of four series of length 3 in two classes, but for what is given."""
    good_x, good_y = torch.zeros(4, 1, 3), torch.tensor([0, 1, 0, 1])
    return Task(
        name="toy",
        train=Split(good_x if x is None else x, good_y if y is None else y),
        test=Split(good_x, good_y),
        num_classes=2,
        class_names=("a", "b"),
        bounds=bounds,
        mean=None,
        std=None,
        augment=None,
        source="made up",
    )


def test_a_valid_task_has_the_shape_of_one_example() -> None:
    assert make_task().input_shape == (1, 3)
    assert len(make_task().train) == 4


def test_non_finite_values_are_counted_and_located() -> None:
    x = torch.zeros(4, 1, 3)
    x[1, 0, 2] = float("nan")
    x[3, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"'toy', train split: 2 non-finite .* \(1, 0, 2\)"):
        make_task(x=x)


def test_labels_outside_the_classes_are_counted_and_located() -> None:
    match = r"train split: 2 labels outside the classes 0\.\.1, the first is -1 at index 1"
    with pytest.raises(ValueError, match=match):
        make_task(y=torch.tensor([0, -1, 1, 2]))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train split: empty.*\(0, 1, 3\)"):
        make_task(x=torch.zeros(0, 1, 3), y=torch.zeros(0, dtype=torch.int64))


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="all 4 labels are of a single class, 'b'"):
        make_task(y=torch.ones(4, dtype=torch.int64))


def test_values_outside_the_bounds_are_refused() -> None:
    assert make_task(bounds=(0.0, 1.0)).bounds == (0.0, 1.0)
    x = torch.zeros(4, 1, 3)
    x[0, 0, 0] = 1.5
    with pytest.raises(ValueError, match=r"values from 0 to 1\.5 leave the bounds \(0, 1\)"):
        make_task(x=x, bounds=(0.0, 1.0))


def test_train_and_test_must_have_one_shape() -> None:
    with pytest.raises(ValueError, match=r"test examples have shape \(1, 3\).*\(1, 5\)"):
        make_task(x=torch.zeros(4, 1, 5))


def test_statistics_must_fit_the_channels() -> None:
    task = make_task()
    assert replace(task, mean=(0.0,), std=(1.0,)).std == (1.0,)
    with pytest.raises(ValueError, match="2 means and 2 standard deviations for 1 channels"):
        replace(task, mean=(0.0, 0.0), std=(1.0, 1.0))
    with pytest.raises(ValueError, match="give both or neither"):
        replace(task, mean=(0.0,))
    with pytest.raises(ValueError, match="must be positive"):
        replace(task, mean=(0.0,), std=(0.0,))


def test_class_names_must_be_as_many_as_the_classes() -> None:
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        replace(make_task(), class_names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2).long(), "x must be float32"),
        (torch.zeros(2), torch.zeros(2).long(), r"x must be float32 of shape \(N, \.\.\.\)"),
        (torch.zeros(2, 3), torch.zeros(2), "y must be int64"),
        (torch.zeros(2, 3), torch.zeros(3).long(), "x has 2 examples and y has 3 labels"),
    ],
)
def test_a_split_refuses_other_types_and_lengths(
    x: torch.Tensor, y: torch.Tensor, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        Split(x, y)
