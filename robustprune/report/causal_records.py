"""Read the run directory of a causal language model, and refuse content that makes no sense."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robustprune.report.fields import Field, parse_json, read_text
from robustprune.report.records import LayerRecord

KIND = "causal"
SCHEMA = 1


@dataclass(frozen=True)
class Figure:
    """A perplexity, or a ratio of two, with its 95% interval; infinite where JSON has null."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FileRecord:
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SpeedRecord:
    """How fast a network generates one text, in tokens a second by its fastest step, beside the
    dense one.

    Attributes:
        dense: the speed of the dense network, timed in turns with this one.
        sparse_layers: the number of layers that are CSR, because that was faster.
    """

    tokens_per_second: float
    dense: float
    sparse_layers: int
    threads: int
    device: str


@dataclass(frozen=True)
class NetworkRecord:
    """One network; the dense one has no level, ratio, layers and files.

    Attributes:
        method: the name of the method in tables.
        level: what is pruned: a share such as 50%, or N:M.
        density: the kept share of the weights that masks cover.
        whole_density: that of all parameters.
        attacked, unattacked: under attack and without, both on the windows that are attacked.
        errors: the relative error of each layer, in the order of the walk.
    """

    name: str
    title: str
    method: str
    level: str | None
    perplexity: Figure
    ratio: Figure | None
    attacked: Figure | None
    unattacked: Figure | None
    continuation: str | None
    speed: SpeedRecord | None
    density: float
    whole_density: float
    layers: tuple[LayerRecord, ...]
    files: tuple[FileRecord, ...]
    errors: Mapping[str, float]


@dataclass(frozen=True)
class TextRecord:
    name: str
    source: str
    windows: int
    window: int
    calibration: int
    calibration_window: int


@dataclass(frozen=True)
class LanguageRecord:
    weights: str
    type: str
    parameters: int
    dtype: str
    vocabulary: int


@dataclass(frozen=True)
class EmbeddingAttackRecord:
    description: str
    norm: str
    eps: float
    windows: int


@dataclass(frozen=True)
class CausalRecord:
    """All that a report of such a run says."""

    run: str
    seed: int
    headline: str
    task: TextRecord
    model: LanguageRecord
    attack: EmbeddingAttackRecord | None
    prompt: str
    networks: tuple[NetworkRecord, ...]

    @property
    def dense(self) -> NetworkRecord:
        return self.networks[0]

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of sparsity, in the order of the run."""
        return tuple(dict.fromkeys(one.level for one in self.networks if one.level is not None))

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.method for one in self.networks if one.level is not None))

    def at(self, method: str, level: str) -> NetworkRecord | None:
        """Return the network of a method at a level, if there is one."""
        found = (one for one in self.networks if (one.method, one.level) == (method, level))
        return next(found, None)


def is_causal(metrics: Mapping[str, object]) -> bool:
    """Return whether the content of metrics.json is that of a causal language model."""
    return metrics.get("kind") == KIND


def parse_causal(metrics: Mapping[str, object], *, source: str = "metrics") -> CausalRecord:
    """Check and convert the content of metrics.json.

    Raises:
        ValueError: a field is missing or impossible; the message names it.
    """
    return _record(Field(source, "", metrics), {})


def collect_causal(run_dir: Path) -> CausalRecord:
    """Read metrics.json and each model's history.jsonl.

    Raises:
        ValueError: a file is missing, unreadable or malformed; the message names it.
    """
    path = run_dir / "metrics.json"
    field = parse_json(read_text(path), source=str(path))
    names = [_name(one) for one in field["networks"].items()]
    return _record(field, {name: _errors(run_dir, name) for name in names[1:]})


def _record(field: Field, errors: Mapping[str, Mapping[str, float]]) -> CausalRecord:
    schema = field["schema"].count()
    if schema != SCHEMA:
        raise field.wrong(f"has schema {schema}, this version reads schema {SCHEMA}")
    networks = tuple(_network(one, errors) for one in field["networks"].items())
    names = [one.name for one in networks]
    if len(set(names)) != len(names) or not networks or networks[0].level is not None:
        raise field["networks"].wrong("must begin with the dense network, and names must differ")
    if any(one.level is None for one in networks[1:]):
        raise field["networks"].wrong("only the first one may be dense")
    headline = field["headline"].text()
    if headline not in names:
        raise field["headline"].wrong(f"must be one of {', '.join(names)}, got {headline!r}")
    attack = field.find("attack")
    return field.record(
        CausalRecord,
        networks=networks,
        attack=attack.record(EmbeddingAttackRecord) if attack else None,
    )


def _name(field: Field) -> str:
    name = field["name"].text()
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise field["name"].wrong(f"must be usable as a folder's name, got {name!r}")
    return name


def _network(field: Field, errors: Mapping[str, Mapping[str, float]]) -> NetworkRecord:
    name = _name(field)
    ratio, attacked, unattacked = map(field.find, ("ratio", "attacked", "unattacked"))
    files = tuple(one.record(FileRecord, name=key) for key, one in field["files"].entries())
    for share in ("density", "whole_density"):
        field[share].fraction()
    return field.record(
        NetworkRecord,
        perplexity=_figure(field["perplexity"]),
        ratio=_figure(ratio) if ratio else None,
        attacked=_figure(attacked) if attacked else None,
        unattacked=_figure(unattacked) if unattacked else None,
        files=files,
        errors=errors.get(name, {}),
        speed=_speed(field),
    )


def _speed(field: Field) -> SpeedRecord | None:
    found = field.find("speed")
    if found is None:
        return None
    for key in ("tokens_per_second", "dense"):
        if not 0 < found[key].number() < math.inf:
            raise found[key].wrong("must be positive and finite, in tokens a second")
    return found.record(SpeedRecord)


def _figure(field: Field) -> Figure:
    value, (low, high) = _number(field, "value"), _ends(field)
    if not low <= value <= high or low < 0:
        raise field.wrong(f"ci95 must be [low, high] around the value {value}, got {[low, high]}")
    return Figure(value, low, high)


def _ends(field: Field) -> tuple[float, float]:
    ends = [math.inf if one.value is None else one.number() for one in field["ci95"].items()]
    if len(ends) != 2:
        raise field["ci95"].wrong(f"must be [low, high], got {ends}")
    return ends[0], ends[1]


def _number(field: Field, key: str) -> float:
    found = field.find(key)
    return math.inf if found is None else found.number()


def _errors(run_dir: Path, name: str) -> dict[str, float]:
    path = run_dir / "models" / name / "history.jsonl"
    found = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        record = parse_json(line, source=f"{path}, line {number}")
        layer = record.find("layer")
        if layer is not None:
            found[layer.text()] = record["loss"].number()
    return found
