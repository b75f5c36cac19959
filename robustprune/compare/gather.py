"""Read finished runs and take from each what a comparison needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustprune.certify import Certificate, Manifest
from robustprune.measure.statistics import Proportion, proportion
from robustprune.report.collect import collect
from robustprune.report.records import CostRecord, MetricsRecord, ModelRecord, RunRecord
from robustprune.run.config import parse_config, read_yaml

#: the dense networks that every run has
BASELINES = ("natural", "adversarial")
#: the forms of a network in cost.json; the first that exists is what a user would deploy
_DEPLOYED = ("slim, CSR where measured faster", "slim", "masks baked in")


@dataclass(frozen=True, eq=False)
class Result:
    """One network of one run.

    Attributes:
        run: its run directory.
        config: the run's config as a tree; group: its digest without the seed.
        metrics: the metrics of the whole run.
        model: the network's entry in them.
        headline: whether it is the headline model of the run.
        answers: (N,) bool, which test examples are correct in the worst case, or None if the run
            has stored none. labels: the labels of these examples.
        constant: whether it gives one class for every input.
        certified: the share of the first test examples that is certified beyond eps, a lower bound;
            only for the headline model.
        cost: that of the form that would be deployed; dense_cost: that of the dense network; or
            None.
    """

    run: Path
    config: Mapping[str, Any]
    group: str
    metrics: MetricsRecord
    model: ModelRecord
    headline: bool
    answers: NDArray[np.bool_] | None
    labels: tuple[int, ...]
    constant: bool
    certified: Proportion | None
    cost: CostRecord | None
    dense_cost: CostRecord | None

    @property
    def seed(self) -> int:
        return self.metrics.seed


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories among `paths` and inside of them, each once.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a folder has no finished run.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder {path}")
        beneath = sorted(file.parent for file in path.rglob("metrics.json"))
        if not beneath:
            raise ValueError(f"{path} holds no finished run: there is no metrics.json beneath it")
        found.update(dict.fromkeys(run.resolve() for run in beneath))
    return list(found)


def gather(runs: Sequence[Path], *, everything: bool = False) -> list[Result]:
    """Return the headline model and the dense networks of each run, or all its networks.

    Raises:
        ValueError: a run cannot be read, or two runs have the same config and seed.
    """
    results, seen = [], dict[tuple[str, int], Path]()
    for path in runs:
        record = collect(path)
        config = config_tree(record.config, path)
        group = group_of(config)
        key = (group, record.metrics.seed)
        if key in seen:
            raise ValueError(f"{path} and {seen[key]} are the same config and seed; give one")
        seen[key] = path
        for model in record.metrics.models:
            headline = model.name == record.metrics.headline
            if everything or headline or model.name in BASELINES:
                results.append(_result(path, config, group, record, model, headline))
    return results


def _result(
    path: Path,
    config: Mapping[str, Any],
    group: str,
    record: RunRecord,
    model: ModelRecord,
    headline: bool,
) -> Result:
    forms = {cost.name: cost for cost in record.costs.rows} if record.costs else {}
    cost = None
    if headline:
        cost = next((forms[name] for name in _DEPLOYED if name in forms), None)
    elif model.name == "adversarial":
        cost = forms.get("dense")
    return Result(
        run=path,
        config=config,
        group=group,
        metrics=record.metrics,
        model=model,
        headline=headline,
        answers=answers.worst if (answers := record.answers.get(model.name)) else None,
        labels=record.labels,
        constant=model.name in record.constant,
        certified=_certified(record.certificates.get(model.name)),
        cost=cost,
        dense_cost=forms.get("dense"),
    )


def _certified(found: tuple[Manifest, Sequence[Certificate]] | None) -> Proportion | None:
    """Return the share that any proof certifies beyond eps; smoothing certifies another
    classifier."""
    if found is None:
        return None
    manifest, certificates = found
    radii: dict[int, float] = {}
    for c in certificates:
        if c.guarantee == "base" and c.norm == manifest.norm:
            radii[c.index] = max(c.radius, radii.get(c.index, 0.0))
    if not radii:
        return None
    return proportion(sum(r > manifest.eps for r in radii.values()), len(radii))


def config_tree(text: str, path: Path) -> dict[str, Any]:
    """Return the mapping in a run's config.yaml, whatever options it has.

    Raises:
        ValueError: it is no mapping.
    """
    try:
        tree = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path / 'config.yaml'} is not valid YAML") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path / 'config.yaml'} must hold a mapping of sections")
    return tree


def group_of(config: Mapping[str, Any]) -> str:
    """Return one digest for all seeds, whatever options existed when the run was made."""
    try:
        return parse_config(config).digest()
    except ValueError:  # the config is of a newer version
        described = {key: value for key, value in config.items() if key != "seed"}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
