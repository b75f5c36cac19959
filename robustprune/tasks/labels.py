"""Turn the labels in a file (whole numbers or names) into class indices 0..C-1."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustprune.run.terminal import shown

Labels = npt.NDArray[np.generic]
#: texts that stand for a missing label, in lower case: pandas' list and other usual ones
_MISSING = frozenset(
    {"", "?", "nan", "-nan", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nat", "none", "null"}
    | {"1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
)
_LONGEST = 200
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def check_labels(
    labels: Sequence[str], at: Callable[[int], str], *, declared: Collection[str] = ()
) -> None:
    """Refuse labels of one file that would silently become wrong classes.

    These are missing labels, such as an empty field, ``?``, ``nan``, ``NA`` or ``None`` in upper or
    lower case; the same number or name written in two ways, such as ``01`` and ``1``, or ``+1`` and
    ``1``; and labels that have several lines or more than 200 characters.

    Args:
        labels: the N labels as they are written.
        at: a function from the index of a label to its place, such as "x.csv, line 3".
        declared: labels that the file itself lists as its classes, so that a class may be called
            "none". An empty label or ``?`` counts as missing even so.

    Raises:
        ValueError: one of these labels was found; the message names its place.
    """
    places: dict[str, int] = {}
    for index, label in enumerate(labels):
        places.setdefault(label, index)
    written: dict[object, str] = {}
    for label, index in places.items():
        name = label.strip()
        if name in ("", "?") or (name.lower() in _MISSING and label not in declared):
            raise ValueError(
                f"{at(index)}: the label '{shown(label)}' means that it is missing; give the "
                "example a label or remove it (a class of that name needs another one)"
            )
        if len(label) > _LONGEST or len(name.splitlines()) > 1:
            raise ValueError(
                f"{at(index)}: the label '{shown(label)}' has {len(label)} characters and "
                f"{len(name.splitlines())} lines; a label is one line of at most {_LONGEST} "
                "characters: is a quote not closed, or the separator another one?"
            )
        first = written.setdefault(_meaning(name), label)
        if first != label:
            raise ValueError(
                f"{at(index)}: the label '{shown(label)}' is '{shown(first)}' of "
                f"{at(places[first])} in another way of writing; write one class in one way"
            )


def _meaning(name: str) -> object:
    """Return the exact number that a label stands for, or else the label itself."""
    try:
        number = Decimal(name)  # takes whatever float() takes, "1_0" too, and rounds nothing
    except InvalidOperation:
        return name
    return number if number.is_finite() else name


def encode_labels(
    train: Labels,
    test: Labels,
    *,
    where: str,
    at: Callable[[str, int], str] | None = None,
    checked: bool = False,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Replace the distinct training labels, in sorted order, by the numbers 0..C-1.

    Labels that are all written as whole numbers, in both splits, are compared as numbers: "1" in
    one file and "1.0" in the other are the same class. (Within one file `check_labels` refuses
    that.)

    Args:
        train, test: (N,) whole numbers (sorted by value) or strings (sorted as text).
        where: the place that a message names.
        at: a function from the part ("train" or "test") and the index of a label to its place; None
            names the index only.
        checked: whether `check_labels` was called already.

    Returns:
        The training labels (N,) int64, the test labels (M,) int64, and the C class names.

    Raises:
        ValueError: labels are not one-dimensional, or neither whole numbers nor strings;
            `check_labels` refuses them; or a test label occurs in no training example.
    """
    place = at or (lambda part, index: f"{where}, {part}, index {index}")
    train, test = (
        _canonical(labels, f"{where}, {part}", partial(place, part), checked)
        for part, labels in (("train", train), ("test", test))
    )
    if len(train) == 0:
        raise ValueError(f"{where}, train split: empty; give at least one example")
    train, test = _numbered(train, test)
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        raise ValueError(
            f"{where}: train labels are {train.dtype}, test labels {test.dtype}; "
            "use numbers in both or strings in both"
        )
    classes = np.unique(train)
    unknown = np.flatnonzero(~np.isin(test, classes))
    if len(unknown):
        first = int(unknown[0])
        found = f"index {first}" if at is None else at("test", first)
        raise ValueError(
            f"{where}, test split: {len(unknown)} labels outside the {len(classes)} classes of the "
            f"training split, the first is '{shown(test[first])}' at {found}; "
            "correct the labels or remove these examples"
        )
    y_train, y_test = (torch.from_numpy(np.searchsorted(classes, y)) for y in (train, test))
    return y_train.long(), y_test.long(), tuple(str(name) for name in classes.tolist())


def _canonical(labels: Labels, where: str, at: Callable[[int], str], checked: bool) -> Labels:
    """Return `labels` as int64, or as strings without spaces around them."""
    if labels.ndim != 1:
        raise ValueError(
            f"{where} labels have shape {labels.shape}; give one label per example, shape (N,)"
        )
    if labels.dtype.kind in "iub":
        large = np.flatnonzero(np.greater(labels, np.iinfo(np.int64).max))
        if len(large):
            first = int(large[0])
            raise ValueError(f"{at(first)}: the label {labels[first]} is too large; number classes")
        return labels.astype(np.int64)
    if labels.dtype.kind == "U":
        names: list[str] = labels.tolist()
        if not checked:
            check_labels(names, at)
        return np.array([name.strip() for name in names], dtype=np.str_)
    if labels.dtype.kind == "f":
        missing = np.flatnonzero(~np.isfinite(labels))
        if len(missing):
            raise ValueError(
                f"{at(int(missing[0]))}: the label {labels[missing[0]]} is no class; give the "
                "example a label or remove it"
            )
        if _whole(labels):
            return labels.astype(np.int64)
    raise ValueError(
        f"{where} labels are of type {labels.dtype} and not whole numbers or strings; "
        "give class numbers or names"
    )


def _numbered(*parts: Labels) -> tuple[Labels, ...]:
    """Return strings as int64 if those of all parts are whole numbers, or else as they are."""
    # One part decides nothing: a test split of the classes 0, 1 and "other" may lack the name.
    texts = [part for part in parts if part.dtype.kind == "U"]
    if not all(_NUMBER.fullmatch(name) for part in texts for name in set(part.tolist())):
        return parts
    # Editions of the archive write the same class as "1", "1.0" and "1.0000000e+00".
    if not all(_whole(part.astype(np.float64)) for part in texts):
        return parts
    return tuple(
        part.astype(np.float64).astype(np.int64) if part.dtype.kind == "U" else part
        for part in parts
    )


def _whole(numbers: Labels) -> bool:
    """Return whether all numbers are whole and small enough for float64 to hold them exactly."""
    wide = numbers.astype(np.float64)  # float16 cannot hold the limit itself
    return bool((np.abs(wide) < 2**53).all() and (wide == np.floor(wide)).all())
