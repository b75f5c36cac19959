"""The parts of a run that are arrays: answers, selected examples, and one attacked example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class WaveRecord:
    """A candidate beside the clean example that it was made from; both are (channels, length)."""

    index: int
    label: int
    score: float
    place: str  # "best 1", "worst 2"
    x: NDArray[np.float32]
    x_adv: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SelectionRecord:
    """The adversarial examples on which one network was trained: R selections among N
    candidates."""

    epochs: NDArray[np.int64]  # (R,), counted from 0
    scores: NDArray[np.float64]  # (R, N)
    weights: NDArray[np.float64]  # (R, N), 0 for candidates that were not chosen
    labels: NDArray[np.int64]  # (N,)
    waves: tuple[WaveRecord, ...]  # of the last selection; empty if examples are no series


@dataclass(frozen=True, eq=False)
class AnswersRecord:
    """The test examples that one network classifies correctly, without attack and in the worst
    case over all attacks; (N,) bool each."""

    clean: NDArray[np.bool_]
    worst: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Answer:
    """What one network says: x_adv as x; logits (C,) without attack and under it."""

    x_adv: NDArray[np.float64]
    logits: NDArray[np.float64]
    logits_adv: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PicturedRecord:
    """A test example, and each network's answer before and after an attack that it was made for."""

    index: int
    label: int
    attack: str
    x: NDArray[np.float64]
    answers: Mapping[str, Answer]

    def right(self, name: str) -> tuple[bool, bool]:
        """Return whether a network is right without attack, and under it."""
        answer = self.answers[name]
        clean, attacked = (one.argmax() == self.label for one in (answer.logits, answer.logits_adv))
        return bool(clean), bool(attacked)
