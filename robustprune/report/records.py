"""The content of a run directory, as plain values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attacks.text import TextResult
from robustprune.certify import Certificate, Manifest
from robustprune.certify.certificate import Norm
from robustprune.measure.accuracy import constant_answer
from robustprune.measure.statistics import Proportion
from robustprune.report.arrays import AnswersRecord, PicturedRecord, SelectionRecord
from robustprune.report.fields import Fraction
from robustprune.run.constant import constant_networks

WORST = "worst"  # the key in metrics.json of the worst case over all attacks for each example


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
    norm: Norm
    eps: float
    bounds: tuple[float, float] | None
    unit: str


@dataclass(frozen=True)
class AttackRecord:
    name: str
    description: str
    bound: Literal["upper", "lower"]


@dataclass(frozen=True)
class CurvePoint:
    eps: float
    value: Fraction
    n: int


@dataclass(frozen=True)
class LayerRecord:
    name: str
    kept: int
    total: int
    density: Fraction


@dataclass(frozen=True)
class MinimalRecord:
    """r* over n examples. These are upper bounds; a quantile that no attack reached is None."""

    norm: Norm
    n: int
    success_rate: Fraction
    median: float | None
    q25: float | None
    q75: float | None


@dataclass(frozen=True)
class ModelRecord:
    """One network of the run: its size and its accuracy.

    Attributes:
        kept, total, density: of the weights that masks can cover.
        parameters: the number of all parameters of the network; None in older runs.
    """

    name: str
    title: str
    density: Fraction
    kept: int
    total: int
    file_bytes: int
    clean: Proportion
    robust: Mapping[str, Proportion]
    curve: tuple[CurvePoint, ...]
    layers: tuple[LayerRecord, ...]
    minimal: MinimalRecord | None = None
    parameters: int | None = None

    @property
    def whole_density(self) -> float | None:
        """The kept share of all parameters, or None where their number is not known."""
        if not self.parameters:
            return None
        return 1 - (self.total - self.kept) / self.parameters

    @property
    def worst(self) -> Proportion:
        return self.robust[WORST]

    @property
    def is_dense(self) -> bool:
        return self.density >= 1.0

    @property
    def reaches_zero(self) -> bool:
        """Return whether the accuracy curve ends where no example is correct."""
        return bool(self.curve) and self.curve[-1].value == 0.0

    @property
    def family(self) -> str:
        """The name without its density: rst-0.05-inherit and rst-0.2-inherit belong to one
        family."""
        return re.sub(r"-\d+(?:\.\d+)?(?=-|$)", "", self.name)


@dataclass(frozen=True)
class SwitchRecord:
    """The random robust scratch ticket switch (R2S): one of several tickets answers a query."""

    densities: tuple[Fraction, ...]
    draws: int
    clean: Proportion
    attacked: Mapping[str, Proportion]
    headline: str


@dataclass(frozen=True)
class TextAttackRecord:
    """One attack on the text of one network's test sentences. A mean over nothing is None."""

    model: str
    attack: str
    description: str
    clean: Proportion
    attacked: Proportion
    success_rate: Fraction | None
    mean_queries: float | None
    mean_changed: Fraction | None


@dataclass(frozen=True)
class MethodRecord:
    """A search of the run: its name in titles, and what it does."""

    title: str
    meaning: str


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
    methods: tuple[MethodRecord, ...] = ()  # empty in runs of older versions

    def find(self, name: str) -> ModelRecord | None:
        return next((model for model in self.models if model.name == name), None)

    @property
    def constant(self) -> frozenset[str]:
        """The names of the networks that were found to give one class for every input."""
        return frozenset(constant_networks((found.name, found.ok) for found in self.findings))

    @property
    def headline_model(self) -> ModelRecord:
        model = self.find(self.headline)
        assert model is not None, "collect refuses metrics without their headline model"
        return model


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.jsonl. What a training did not measure is None."""

    epoch: int
    loss: float
    clean: Fraction | None
    robust: Fraction | None
    val_clean: Fraction | None
    val_robust: Fraction | None
    figures: Mapping[str, float]  # what the search records about itself, by name
    layer: str | None = None  # layer of which `loss` is the error, in layerwise pruning


@dataclass(frozen=True)
class CostRecord:
    """One form of a network and its cost; see `robustprune.measure.Cost`."""

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
    """The forms of the headline model, beside the dense network. The note says what is missing."""

    headline: str
    note: str
    rows: tuple[CostRecord, ...]


#: the content of a file of certificates
Certificates = tuple[Manifest, tuple[Certificate, ...]]


@dataclass(frozen=True)
class RunRecord:
    """Everything from which the report is made."""

    metrics: MetricsRecord
    costs: CostsRecord | None
    certificates: Mapping[str, Certificates]  # by network, the headline model first
    labels: tuple[int, ...]
    answers: Mapping[str, AnswersRecord]  # by network; empty if the run has stored none
    texts: Mapping[str, tuple[TextResult, ...]]  # of the headline model, by attack
    pictured: PicturedRecord | None  # None of runs on text, and of older versions
    selections: Mapping[str, SelectionRecord]
    histories: Mapping[str, tuple[EpochRecord, ...]]
    config: str
    environment: Mapping[str, str]

    @property
    def constant(self) -> frozenset[str]:
        """The names of the networks that give one class for every input, which the checks of the
        run or the correct examples show."""
        seen = (
            name
            for name, answers in self.answers.items()
            if constant_answer(answers.clean.tolist(), self.labels, answers.worst.tolist())
            is not None
        )
        return self.metrics.constant.union(seen)

    @property
    def commonest_share(self) -> float:
        """The accuracy of always answering with the most frequent label of the test examples."""
        return max(Counter(self.labels).values()) / len(self.labels)
