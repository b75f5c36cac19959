"""What a run directory says, as plain values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.text import TextResult
from robustprune.certify import Certificate, Manifest
from robustprune.measure.accuracy import constant_answer
from robustprune.measure.statistics import Proportion
from robustprune.run.constant import constant_networks

WORST = "worst"  # the key, in metrics.json, of the worst case per example over all attacks


@dataclass(frozen=True)
class TaskRecord:
    name: str
    source: str
    num_classes: int
    n_train: int
    n_validation: int
    n_test: int
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class ThreatRecord:
    norm: str
    eps: float
    bounds: tuple[float, float] | None
    unit: str


@dataclass(frozen=True)
class AttackRecord:
    name: str
    description: str
    bound: str


@dataclass(frozen=True)
class CurvePoint:
    eps: float
    value: float
    n: int


@dataclass(frozen=True)
class LayerRecord:
    name: str
    kept: int
    total: int
    density: float


@dataclass(frozen=True)
class MinimalRecord:
    """r* over n examples: upper bounds; a quantile that no attack reached is None."""

    norm: str
    n: int
    success_rate: float
    median: float | None
    q25: float | None
    q75: float | None


@dataclass(frozen=True)
class ModelRecord:
    """One network of the run: its size and how it fared."""

    name: str
    title: str
    density: float
    kept: int
    total: int
    file_bytes: int
    clean: Proportion
    robust: Mapping[str, Proportion]
    curve: tuple[CurvePoint, ...]
    layers: tuple[LayerRecord, ...]
    minimal: MinimalRecord | None = None

    @property
    def worst(self) -> Proportion:
        return self.robust[WORST]

    @property
    def is_dense(self) -> bool:
        return self.density >= 1.0

    @property
    def reaches_zero(self) -> bool:
        """Whether its curve was followed until no example stayed correct."""
        return bool(self.curve) and self.curve[-1].value == 0.0

    @property
    def family(self) -> str:
        """The name without its density: rst-0.05-inherit and rst-0.2-inherit are one family."""
        return re.sub(r"-\d+(?:\.\d+)?(?=-|$)", "", self.name)


@dataclass(frozen=True)
class SwitchRecord:
    """Random robust scratch ticket switch: one of several tickets answers each query."""

    densities: tuple[float, ...]
    draws: int
    clean: Proportion
    attacked: Mapping[str, Proportion]
    headline: str


@dataclass(frozen=True)
class TextAttackRecord:
    """One attack on the text of one network's test sentences; a mean over nothing is None."""

    model: str
    attack: str
    description: str
    clean: Proportion
    attacked: Proportion
    success_rate: float | None
    mean_queries: float | None
    mean_changed: float | None


@dataclass(frozen=True)
class FindingRecord:
    name: str
    ok: bool
    figure: str
    detail: str


@dataclass(frozen=True)
class MetricsRecord:
    run: str
    seed: int
    headline: str
    task: TaskRecord
    threat: ThreatRecord
    attacks: tuple[AttackRecord, ...]
    models: tuple[ModelRecord, ...]
    switch: SwitchRecord | None
    findings: tuple[FindingRecord, ...]
    text: tuple[TextAttackRecord, ...] = ()

    def find(self, name: str) -> ModelRecord | None:
        return next((model for model in self.models if model.name == name), None)

    @property
    def constant(self) -> frozenset[str]:
        """Names of the networks that were found to give one class for everything."""
        return frozenset(constant_networks((found.name, found.ok) for found in self.findings))

    @property
    def headline_model(self) -> ModelRecord:
        model = self.find(self.headline)
        assert model is not None, "collect refuses metrics without their headline model"
        return model


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.jsonl; what a training did not measure is None."""

    epoch: int
    loss: float
    clean: float | None
    robust: float | None
    val_clean: float | None
    val_robust: float | None
    figures: Mapping[str, float]  # what the search itself records, by name


@dataclass(frozen=True)
class CostRecord:
    """One form of a network and what it costs; see `robustprune.measure.Cost`."""

    name: str
    parameters: int
    nonzeros: int
    macs: int
    effective_macs: int
    file_bytes: int
    latency: float
    latency_quartiles: tuple[float, float]
    batch_size: int
    threads: int
    device: str
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class CostsRecord:
    """The headline network in its forms, beside the dense one; the note says what is missing."""

    headline: str
    note: str
    rows: tuple[CostRecord, ...]


@dataclass(frozen=True, eq=False)
class WaveRecord:
    """A candidate beside the clean example it was made of; both are (channels, length)."""

    index: int
    label: int
    score: float
    place: str  # "best 1", "worst 2"
    x: NDArray[np.float32]
    x_adv: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SelectionRecord:
    """On which adversarial examples one network was trained: R selections among N candidates."""

    epochs: NDArray[np.int64]  # (R,), counted from 0
    scores: NDArray[np.float64]  # (R, N)
    weights: NDArray[np.float64]  # (R, N), 0 where not taken
    labels: NDArray[np.int64]  # (N,)
    waves: tuple[WaveRecord, ...]  # of the last selection; none where examples are no series


@dataclass(frozen=True, eq=False)
class AnswersRecord:
    """Which test examples one network classifies correctly, without attack and in the worst case
    over all attacks: (N,) bool each."""

    clean: NDArray[np.bool_]
    worst: NDArray[np.bool_]


@dataclass(frozen=True)
class RunRecord:
    """Everything the report is made from."""

    metrics: MetricsRecord
    costs: CostsRecord | None
    certificates: tuple[Manifest, tuple[Certificate, ...]] | None
    labels: tuple[int, ...]
    answers: Mapping[str, AnswersRecord]  # by network; empty where a run has kept none
    texts: Mapping[str, tuple[TextResult, ...]]  # of the headline, by attack
    selections: Mapping[str, SelectionRecord]
    histories: Mapping[str, tuple[EpochRecord, ...]]
    config: str
    environment: Mapping[str, str]

    @property
    def constant(self) -> frozenset[str]:
        """Names of the networks that give one class for everything, by the run's own checks or by
        what they are right on."""
        seen = (
            name
            for name, answers in self.answers.items()
            if constant_answer(answers.clean.tolist(), self.labels) is not None
            and bool((answers.clean == answers.worst).all())
        )
        return self.metrics.constant.union(seen)

    @property
    def commonest_share(self) -> float:
        """The accuracy of giving the commonest label of the test examples as every answer."""
        return max(Counter(self.labels).values()) / len(self.labels)
