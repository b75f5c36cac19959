"""Records are read by the types of their attributes, and refused by the field that is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from robustprune.measure.statistics import Proportion
from robustprune.report.fields import Field, Fraction


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    count: int
    size: float
    share: Fraction
    done: bool
    kind: Literal["a", "b"]
    right: Proportion
    maybe: Fraction | None
    inner: Inner
    many: tuple[Inner, ...]
    other: str


RIGHT = {"value": 0.5, "n": 4, "ci95": [0.1, 0.9]}
GOOD: dict[str, Any] = {
    "count": 3, "size": 2, "share": 1, "done": True, "kind": "b", "right": RIGHT, "maybe": 0.5,
    "inner": {"name": "x"}, "many": [{"name": "y"}, {"name": "z"}], "unknown": "left alone",
}  # fmt: skip


def read(**changed: object) -> Outer:
    return Field("file.json", "", {**GOOD, **changed}).record(Outer, other="own")


def test_every_attribute_is_read_by_its_type() -> None:
    right = Proportion(0.5, 4, (0.1, 0.9))
    many = (Inner("y"), Inner("z"))
    assert read() == Outer(3, 2.0, 1.0, True, "b", right, 0.5, Inner("x"), many, "own")
    assert read(maybe=None).maybe is None
    bare = {name: value for name, value in GOOD.items() if name != "maybe"}
    assert Field("", "", bare).record(Outer, other="own").maybe is None
    assert read(many=[]).many == ()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 1.5, "count: must be a whole number from 0, got 1.5"),
        ("count", None, "has no field 'count'"),
        ("size", float("inf"), "size: must be finite"),
        ("size", True, "size: must be a number, got bool"),
        ("share", 1.5, r"share: must lie in \[0, 1\], got 1.5"),
        ("maybe", -1, r"maybe: must lie in \[0, 1\]"),
        ("done", 1, "done: must be true or false, got int"),
        ("kind", "c", "kind: must be one of a, b, got 'c'"),
        ("kind", 1, "kind: must be text, got int"),
        ("right", {**RIGHT, "n": 0}, "right: needs n of at least 1"),
        ("inner", {}, "inner: has no field 'name'"),
        ("many", {"name": "y"}, "many: must be a list, got dict"),
        ("many", [{"name": "y"}, {"name": 1}], r"many\[1\].name: must be text, got int"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"file.json.*{message}"):
        read(**{name: value})


@pytest.mark.parametrize("value", [10**400, -(10**400), math.inf, math.nan])
def test_numbers_beyond_a_float_are_refused(value: float) -> None:
    field = Field("metrics.json", "seed", value)
    for read in (field.number, field.count, field.fraction):
        with pytest.raises(ValueError, match=r"^metrics\.json, seed: must be finite"):
            read()
