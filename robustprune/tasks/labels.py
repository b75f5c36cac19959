"""From the labels people write, whole numbers or names, to class indices 0..C-1."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Labels = npt.NDArray[np.generic]


def encode_labels(
    train: Labels, test: Labels, *, where: str
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Number the distinct training labels 0..C-1 in sorted order.

    Args:
        train, test: (N,) whole numbers (sorted by value) or strings (sorted as text).
        where: what a message names as the place.

    Returns:
        (N,) int64 training labels, (M,) int64 test labels, and the C class names.

    Raises:
        ValueError: labels that are not one-dimensional, neither whole numbers nor strings, or a
            test label that no training example has.
    """
    train, test = _canonical(train, f"{where}, train"), _canonical(test, f"{where}, test")
    if len(train) == 0:
        raise ValueError(f"{where}, train split: empty; give at least one example")
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        raise ValueError(
            f"{where}: train labels are {train.dtype}, test labels {test.dtype}; "
            "use numbers in both or strings in both"
        )
    classes = np.unique(train)
    unknown = np.flatnonzero(~np.isin(test, classes))
    if len(unknown):
        raise ValueError(
            f"{where}, test split: {len(unknown)} labels outside the {len(classes)} classes of the "
            f"training split, the first is '{test[unknown[0]]}' at index {unknown[0]}; "
            "correct the labels or remove these examples"
        )
    y_train, y_test = (torch.from_numpy(np.searchsorted(classes, y)) for y in (train, test))
    return y_train.long(), y_test.long(), tuple(str(name) for name in classes.tolist())


def _canonical(labels: Labels, where: str) -> Labels:
    """`labels` as int64, or as strings where they are no whole numbers."""
    if labels.ndim != 1:
        raise ValueError(
            f"{where} labels have shape {labels.shape}; give one label per example, shape (N,)"
        )
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    if labels.dtype.kind == "U":
        try:
            numbers = labels.astype(np.float64)
        except ValueError:
            return labels
        # "1", "1.0" and "1.0000000e+00" are the same class in the archive's several editions.
        return numbers.astype(np.int64) if _whole(numbers) else labels
    if labels.dtype.kind == "f" and _whole(labels):
        return labels.astype(np.int64)
    raise ValueError(
        f"{where} labels are of type {labels.dtype} and not whole numbers or strings; "
        "give class numbers or names"
    )


def _whole(numbers: Labels) -> bool:
    """Whether all are whole and small enough for a float to tell each from the next."""
    wide = numbers.astype(np.float64)  # in half precision the limit itself would be infinite
    return bool((np.abs(wide) < 2**53).all() and (wide == np.floor(wide)).all())
