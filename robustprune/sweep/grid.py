"""The description of a sweep: a config, and values for some of its fields."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from robustprune.run.config import Config, parsed_overrides, read_tree, read_yaml, with_values
from robustprune.run.files import not_special
from robustprune.run.packaged import config_names, config_path
from robustprune.run.settings import Section

#: short names of the fields that most sweeps vary; the first two fields are lists
SHORT = {
    "method": "search.methods",
    "density": "search.density",
    "objective": "objective.name",
    "attack": "inner.attack",
}
_LISTS = ("method", "density")


class Sweep(Section):
    """A grid of runs.

    Attributes:
        name: the name of the sweep: letters, digits, '.', '_' and '-'.
        config: the name of a packaged config, or a file; a relative path starts at the folder of
            the sweep's file.
        set: overrides for all runs, such as "evaluation.curve=false".
        grid: for each field its values; there is a run for each combination, and the last field
            changes fastest. A field is a dotted name of the config, or method, density, objective,
            attack.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    config: str
    set: tuple[str, ...] = ()
    grid: dict[str, list[Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Point:
    """One run of a sweep: the values of its fields, and its whole config."""

    values: Mapping[str, Any]
    config: Config

    @property
    def label(self) -> str:
        return ", ".join(f"{field}={_short(value)}" for field, value in self.values.items())


def load_sweep(path: Path) -> Sweep:
    """Read a sweep's YAML file.

    Raises:
        ValueError: the file is not a mapping, a key is unknown, a field has no values, or a value
            is repeated.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        raise ValueError(f"sweep {path} is a folder; give a YAML file in it")
    not_special(path)
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"sweep file {path} does not exist") from None
    except ValueError as error:  # UnicodeDecodeError is one
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not valid YAML: {said}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold name, config and grid, got {type(tree).__name__}")
    try:
        sweep = Sweep.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        allowed = ", ".join(Sweep.model_fields)
        raise ValueError(f"{path}: {where}: {first['msg']}; a sweep has {allowed}") from error
    for field, values in sweep.grid.items():
        if not values:
            raise ValueError(f"{path}: grid.{field} has no values; give one, or leave it out")
        if len({json.dumps(value, default=str) for value in values}) < len(values):
            raise ValueError(f"{path}: grid.{field} has a value twice: {_short(values)}")
    beside = path.parent / sweep.config
    if sweep.config not in config_names() and not Path(sweep.config).is_absolute():
        return sweep.model_copy(update={"config": str(beside)})
    return sweep


def points_of(sweep: Sweep) -> list[Point]:
    """Return every combination of the grid's values, each as a checked config.

    Raises:
        ValueError, FileNotFoundError: as in `load_config`, for the first combination that is not
            valid; or two combinations are the same run, which would write into one directory.
    """
    path = config_path(sweep.config)
    shared = parsed_overrides(sweep.set)
    tree, points = read_tree(path), dict[tuple[str, int], Point]()
    for values in itertools.product(*sweep.grid.values()):
        point = dict(zip(sweep.grid, values, strict=True))
        config = with_values(tree, [*shared, *map(_value, point.items())], source=str(path))
        made = Point(point, config)
        same = points.setdefault((config.digest(), config.seed), made)
        if same is not made:
            raise ValueError(
                f"sweep {sweep.name}: {same.label} and {made.label} are the same run; leave one out"
            )
    return list(points.values())


def _value(item: tuple[str, Any]) -> tuple[str, Any]:
    """Return the dotted name of a field and its value as plain JSON."""
    field, value = item
    if field in _LISTS and not isinstance(value, list):
        value = [value]
    return SHORT.get(field, field), json.loads(json.dumps(value, default=str))


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
