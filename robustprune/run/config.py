"""The description of a run: one YAML file that is checked, with overrides by dotted keys.

The sections and their fields are in `sections.py`. `configs/*.yaml` are complete examples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from robustprune.run.digest import digest, digest_v1
from robustprune.run.files import read_bytes
from robustprune.run.naming import task_label
from robustprune.run.packaged import config_names
from robustprune.run.sections import METHODS, Sections
from robustprune.run.settings import OBJECTIVES, TrainingSection
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown

__all__ = ["METHODS", "OBJECTIVES", "Config", "TrainingSection", "load_config", "parse_config"]


#: the largest size of a config in bytes; reading YAML needs a hundred times as much memory
_LARGEST = 2**20


class Config(Sections):
    """The description of a run. Its fields are those of `Sections`."""

    def digest(self) -> str:
        """Return eight hex digits of everything except the seed, so that all seeds share a
        folder."""
        return digest(self._tree(), Config()._tree())

    def folder(self, root: Path) -> Path:
        """Return the run directory of this config and seed in `root`: the one that exists, by the
        present digest or by that of older versions, or else the one that will be made."""
        names = (self.digest(), digest_v1(self._tree(), Config()._tree()))
        homes = [root / f"{self.name}-{name}" for name in names]
        seeds = [home / f"seed{self.seed}" for home in homes]
        there = [seed for seed in seeds if seed.exists()]
        there += [seed for home, seed in zip(homes, seeds, strict=True) if home.exists()]
        return [*there, *seeds][0]

    def _tree(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"seed"})

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply overrides such as "search.epochs=50".

    Raises:
        ValueError: the file is no mapping, a key is unknown (the message names the nearest valid
            one), or a value is wrong.
        FileNotFoundError: there is no such file.
    """
    return with_values(read_tree(path), parsed_overrides(overrides), source=str(path))


def read_tree(path: Path) -> dict[str, Any]:
    """Return the mapping in a config's YAML file, without checking its keys.

    Raises:
        ValueError: the file is not YAML, or no mapping.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        raise ValueError(f"config {path} is a folder; give a YAML file in it")
    try:
        content = read_bytes(path, most=_LARGEST)
    except FileNotFoundError:
        near = did_you_mean(path.stem, config_names())
        raise FileNotFoundError(f"config file {path} does not exist{near}") from None
    try:
        tree = read_yaml(content.decode())
    except ValueError as error:  # also for bytes that are not UTF-8
        said = shown(" ".join(str(error).split()))
        raise ValueError(f"{path} is not valid YAML: {said}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping of sections, got {type(tree).__name__}")
    return tree


def with_values(
    tree: Mapping[str, Any], values: Sequence[tuple[str, Any]], *, source: str = "config"
) -> Config:
    """Return the config of a mapping (which does not change) with values by dotted key, in order.

    Values that name another task also name the run after it, and another network does not get the
    options of the one before, unless the values say so, too.

    Raises:
        ValueError: as in `load_config`.
    """
    changed = _copied(tree)
    model = changed.get("model")
    if isinstance(model, dict):
        name = model.get("name")
        if dict(values).get("model.name", name) != name:
            model.pop("options", None)
    for path, value in values:
        _override(changed, path, value)
    if "name" not in dict(values):
        _name_after_task(tree, changed)
    return parse_config(changed, source=source, overrides=[path for path, _ in values])


def _name_after_task(tree: Mapping[str, Any], changed: dict[str, Any]) -> None:
    """Give the run the name of its task if that was replaced."""
    before, after = tree.get("task", {}), changed.get("task", {})
    if not isinstance(before, dict) or not isinstance(after, dict):
        return  # `parse_config` says what is wrong
    if task_label(before) != task_label(after):
        changed["name"] = task_label(after)


class _Plain(yaml.SafeLoader):
    """Read only plain values without aliases. With nested aliases, a short text could describe a
    value that no memory holds. A pattern such as 2:4 is a text, and not a number in base 60."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:  # the first value would be ignored silently
                    raise yaml.YAMLError(f"{shown(key.value)} is given twice; keep one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> Any:
        text = self.construct_scalar(node)
        return text if ":" in text else super().construct_yaml_int(node)


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)


def read_yaml(text: str) -> Any:
    """Return the value of a text, made of mappings, lists and plain values.

    Raises:
        ValueError: it is not YAML, has an alias, or has a key twice.
    """
    try:
        return yaml.load(text, Loader=_Plain)  # a SafeLoader
    except (
        *(yaml.YAMLError, ValueError),
        # PyYAML raises these for values that contradict their tag or form
        *(ArithmeticError, AttributeError, LookupError, TypeError, RecursionError),
    ) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def parse_config(
    tree: Mapping[str, Any], *, source: str = "config", overrides: Sequence[str] = ()
) -> Config:
    """Check a mapping and return the config.

    Args:
        source: the name of its origin, for errors.
        overrides: dotted keys that do not come from a file; an error about one of them says so.

    Raises:
        ValueError: a key or value is wrong; the message names the first one and what would be
            right, in one line.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = [shown(str(part)) for part in first["loc"]]
        dotted = f"{'.'.join(where)}."
        unknown = first["type"] == "extra_forbidden"
        if any(dotted.startswith(f"{k}.") or (unknown and k.startswith(dotted)) for k in overrides):
            source = "override"
        if unknown:
            known = _keys(where[:-1])
            raise ValueError(
                f"{source}: unknown key '{'.'.join(where)}'"
                f"{did_you_mean(where[-1], known)}; valid keys there: {', '.join(known)}"
            ) from error
        given = shown(repr(first["input"]))
        near = ""
        if first["type"] == "literal_error" and isinstance(first["input"], str):
            near = did_you_mean(first["input"], re.findall(r"'([^']*)'", first["msg"]))
        raise ValueError(
            f"{source}: {'.'.join(where)}={given} is not valid: {shown(first['msg'], 600)}{near}"
        ) from error


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the mapping with its inner mappings; other values are never changed."""
    return {k: _copied(v) if isinstance(v, dict) else v for k, v in tree.items()}


def parsed_overrides(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """Return (dotted key, value) of overrides such as "search.epochs=50".

    Raises:
        ValueError: an override has another form, or its value is not YAML.
    """
    return list(map(_parsed, overrides))


def _parsed(text: str) -> tuple[str, Any]:
    """Return (dotted key, value) of "section.key=value"."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"override {shown(repr(text))} is not of the form section.key=value")
    try:
        return path.strip(), read_yaml(value)
    except ValueError as error:
        raise ValueError(f"override {shown(repr(text))}: the value is not valid YAML") from error


def _override(tree: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    node: Any = tree
    for section in sections:
        node = node.setdefault(section, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        where = shown(".".join(sections))
        raise ValueError(f"override {shown(repr(path))}: '{where}' is not a section")
    node[key] = value


def _keys(sections: Sequence[str]) -> list[str]:
    """Return the valid keys of a section."""
    model: type[BaseModel] = Config
    for section in sections:
        kind = model.model_fields[section].annotation
        inner = kind if isinstance(kind, type) else next(iter(get_args(kind)), None)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
