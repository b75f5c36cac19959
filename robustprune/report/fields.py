"""Read values from parsed JSON, with errors that name the file and the field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from robustprune.measure.statistics import Proportion
from robustprune.run.files import not_special

T = TypeVar("T")
Fraction = Annotated[float, "in [0, 1]"]


@dataclass(frozen=True)
class Field:
    """A JSON value, with its file and its path inside the file."""

    source: str
    path: str
    value: object

    def __getitem__(self, key: str) -> Field:
        child = self.find(key)
        if child is None:
            raise self.wrong(f"has no field {key!r}")
        return child

    def find(self, key: str) -> Field | None:
        """Return the field `key`, or None where it is absent or null."""
        value = self.mapping().get(key)
        path = f"{self.path}.{key}" if self.path else key
        return None if value is None else Field(self.source, path, value)

    def wrong(self, complaint: str) -> ValueError:
        where = f"{self.source}, {self.path}" if self.path else self.source
        return ValueError(f"{where}: {complaint}")

    def mapping(self) -> Mapping[str, object]:
        if not isinstance(self.value, Mapping):
            raise self.wrong(f"must be an object, got {_kind(self.value)}")
        return self.value

    def entries(self) -> Iterator[tuple[str, Field]]:
        """Yield the fields of an object with their names."""
        for key in self.mapping():
            yield key, self[key]

    def items(self) -> list[Field]:
        """Return the elements of a list."""
        if not isinstance(self.value, list | tuple):
            raise self.wrong(f"must be a list, got {_kind(self.value)}")
        return [
            Field(self.source, f"{self.path}[{index}]", item)
            for index, item in enumerate(self.value)
        ]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong(f"must be text, got {_kind(self.value)}")
        return self.value

    def truth(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.wrong(f"must be true or false, got {_kind(self.value)}")
        return self.value

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong(f"must be a number, got {_kind(self.value)}")
        try:
            value = float(self.value)
        except OverflowError:  # a whole number of more than 308 digits
            value = math.inf
        if not math.isfinite(value):
            raise self.wrong(f"must be finite, got {value}")
        return value

    def fraction(self) -> float:
        value = self.number()
        if not 0.0 <= value <= 1.0:
            raise self.wrong(f"must lie in [0, 1], got {value}")
        return value

    def count(self) -> int:
        value = self.number()
        if value < 0 or value != int(value):
            raise self.wrong(f"must be a whole number from 0, got {value}")
        return int(value)

    def proportion(self) -> Proportion:
        """Read `{"value": v, "n": n, "ci95": [low, high]}` with low <= v <= high."""
        bounds = [bound.fraction() for bound in self["ci95"].items()]
        value, n = self["value"].fraction(), self["n"].count()
        if n < 1:
            raise self.wrong("needs n of at least 1")
        if len(bounds) != 2 or not bounds[0] <= value <= bounds[1]:
            raise self.wrong(f"ci95 must be [low, high] around the value {value}, got {bounds}")
        return Proportion(value=value, n=n, ci95=(bounds[0], bounds[1]))

    def choice(self, allowed: tuple[str, ...]) -> str:
        if self.text() not in allowed:
            raise self.wrong(f"must be one of {', '.join(allowed)}, got {self.text()!r}")
        return self.text()

    def record(self, kind: type[T], **own: object) -> T:
        """Read an object as a dataclass, each attribute by its type.

        A type can be a whole number of at least 0, a finite number, a `Fraction`, text, a
        `Proportion`, a choice (`Literal`), another such dataclass, or a tuple of them. It can also
        be one of these or None, for an attribute that may be absent or null.

        Args:
            own: values of attributes that are not read in this way, by name.
        """
        known = _types(kind)  # type: ignore[arg-type]  # mypy: a type is not hashable
        types = {name: hint for name, hint in known.items() if name not in own}
        return kind(**own, **{name: self._attribute(name, hint) for name, hint in types.items()})

    def _attribute(self, name: str, hint: Any) -> object:
        if type(None) not in get_args(hint):
            return self[name]._as(hint)
        found = self.find(name)
        return None if found is None else found._as(get_args(hint)[0])

    def _as(self, hint: Any) -> object:
        if get_origin(hint) is tuple:
            return tuple(item._as(get_args(hint)[0]) for item in self.items())
        if get_origin(hint) is Literal:
            return self.choice(get_args(hint))
        return _READERS[hint](self) if hint in _READERS else self.record(hint)


@cache
def _types(kind: Any) -> dict[str, Any]:
    """Return the attributes of a dataclass with their types."""
    hints = get_type_hints(kind, include_extras=True)
    return {one.name: hints[one.name] for one in fields(kind)}


#: the reader for each type of an attribute
_READERS: Mapping[object, Callable[[Field], object]] = {
    str: Field.text,
    bool: Field.truth,
    int: Field.count,
    float: Field.number,
    Fraction: Field.fraction,
    Proportion: Field.proportion,
}


def read_text(path: Path) -> str:
    """Return the text of a file. A ValueError names the file if it can't be read."""
    try:
        return not_special(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from error


def parse_json(text: str, *, source: str) -> Field:
    """Parse text as a Field. A ValueError names the source if it is not JSON."""
    try:
        return Field(source, "", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from error


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
