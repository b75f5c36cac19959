"""Decide whether the first row of a table of series holds the names of its columns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from robustprune.run.terminal import shown

#: usual names of the column of the labels, in lower case
_NAMES = ("", "label", "labels", "class", "classes", "class_label", "target", "y", "category")
#: how many cells that count up by ones make a header; how many beside a word that may be a label
_FEWEST, _FEWEST_BESIDE_A_WORD = 3, 5


def is_header(rows: Sequence[Sequence[str]], *, last: bool, where: str, said: bool | None) -> bool:
    """Return whether the first of `rows` is a header.

    pandas names the columns of an array 0, 1, 2, ..., and such a row could also be a series. It is
    taken for a header, with a warning, if all its cells count up from 0. It is also one if its
    values (three or more) count up from 0 or 1 and the label's cell is a usual name of such a
    column. If five or more values count up and that cell is a word that is no other row's label,
    the case is not clear.

    Args:
        rows: the rows of the table as cells, at least one row.
        last: whether the labels are in the last column.
        where: the place of the first row, for messages.
        said: the answer of the user, which is returned where it is not None.

    Raises:
        ValueError: the case is not clear, or the first column is the index of pandas, which names
            no class.
    """
    if said is not None:
        return said
    first = [cell.strip() for cell in rows[0]]
    if len(first) > _FEWEST and not first[0] and _counts(first[1:], 0):
        _refuse_index([row[0].strip() for row in rows[1:]], where)
    column = -1 if last else 0
    label, values = first[column], first[:-1] if last else first[1:]
    if len(first) < _FEWEST or not (
        _counts(first, 0) or (len(values) >= _FEWEST and (_counts(values, 0) or _counts(values, 1)))
    ):
        return False
    shape = shown(", ".join(first), 60)
    others = [row[column].strip() for row in rows[1:]]
    if not _counts(first, 0):
        if label.isascii() and label.lstrip("+-").isdigit():
            return False  # a label like any other
        if label.lower() not in _NAMES:
            if label in others or len(values) < _FEWEST_BESIDE_A_WORD:
                return False
            raise ValueError(
                f"{where}: '{shape}' is either a header or a series of the class "
                f"'{shown(label)}'; say which by the option header, true or false"
            )
    warnings.warn(
        f"{where}: '{shape}' is taken for a header, not for a series; if it is one, set the option "
        "header to false",
        stacklevel=2,
    )
    return True


def _refuse_index(column: list[str], where: str) -> None:
    """Refuse a first column without a name whose numbers are all different: it counts the rows."""
    if len(column) >= _FEWEST and all(c.isdigit() for c in column) and _distinct(column):
        raise ValueError(
            f"{where}: the first column is an index that counts the rows, neither label nor value; "
            "write the file without it (in pandas, index=False)"
        )


def _distinct(cells: list[str]) -> bool:
    return len(set(cells)) == len(cells)


def _counts(cells: Sequence[str], start: int) -> bool:
    """Return whether the cells are the whole numbers from `start`, one after the other."""
    return list(cells) == [str(number) for number in range(start, start + len(cells))]
