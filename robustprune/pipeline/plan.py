"""What a config implies, stage by stage, before anything of it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from robustprune.run.config import Config

Kind = Literal["natural", "robust", "one-shot"]
_ONE_SHOT = ("magnitude", "random")  # criteria that look at no data


@dataclass(frozen=True)
class Training:
    """One training of the run.

    Attributes:
        name: the model's, as in the run directory.
        kind: the objective that is descended; "one-shot" only looks at `batches` batches.
        epochs: at most: patience may end it sooner. 0 for one-shot.
        batches: of one-shot.
        measured: whether its model stands in the run's table.
    """

    name: str
    kind: Kind
    epochs: int
    batches: int = 0
    measured: bool = True


def planned_trainings(config: Config) -> list[Training]:
    """Every training of the run, in the order of its table."""
    found = [
        Training("natural", "natural", config.natural.epochs),
        Training("adversarial", "robust", config.adversarial.epochs),
    ]
    if config.selection.method != "none":  # the same on all examples, to compare with
        found.insert(1, Training("adversarial_all", "robust", config.adversarial.epochs))
    for method in config.search.methods:
        densities = config.search.density[:1] if method == "admm_l1" else config.search.density
        for density in densities:
            kind = "rtt" if method == "rst" and config.search.weights != "random" else method
            name = kind if len(config.search.density) == 1 else f"{kind}-{density:g}"
            if method == "lottery":
                found += _lottery(config, name, density)
                continue
            if method == "language":
                found += _language(config, name)
                continue
            found.append(_search(config, method, name))
            found += [
                Training(f"{name}-{mode}", "robust", config.finetune.epochs)
                for mode in config.finetune.modes
            ]
    return found


def _search(config: Config, method: str, name: str) -> Training:
    if method == "rst":
        return Training(name, "robust", config.search.epochs)
    if method in ("admm", "admm_l1"):
        return Training(name, "robust", config.admm.epochs)
    if method in ("hydra", "harp"):
        return Training(name, "robust", config.scores.epochs)
    seen = 0 if method in _ONE_SHOT else config.one_shot.batches
    return Training(name, "one-shot", 0, batches=seen)


def _lottery(config: Config, name: str, density: float) -> list[Training]:
    """Rounds and a last training in one model's name, and each control's own training."""
    section = config.lottery
    fixed = ":" in config.search.pattern  # N of every M: there is nothing in between
    rounds = 1 if fixed else section.rounds or max(1, round(math.log(density) / math.log(0.8)))
    return [
        Training(name, "robust", (rounds + 1) * section.epochs),
        *(Training(f"{name}-{control}", "robust", section.epochs) for control in section.controls),
    ]


def _language(config: Config, name: str) -> list[Training]:
    """The search, then the training of what it drew and of the controls."""
    section, epochs = config.language, config.finetune.epochs
    controls = [f"{name}-{control}" for control in section.controls]
    if section.finetune == "none":
        shuffled = [Training(control, "one-shot", 0) for control in controls]
        return [Training(name, "robust", section.epochs), *shuffled]
    kind: Kind = "robust" if section.finetune == "robust" else "natural"
    return [
        Training(f"{name}-drawn", "robust", section.epochs, measured=False),
        *(Training(each, kind, epochs) for each in (name, *controls)),
    ]


@dataclass(frozen=True)
class Passes:
    """Passes of one example through the network, at most: attacks stop when they succeed.

    Attributes:
        forward: without a gradient.
        gradient: forward and backward to the input.
    """

    forward: int = 0
    gradient: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.gradient + other.gradient)

    def times(self, count: int) -> Passes:
        return Passes(count * self.forward, count * self.gradient)


#: passes of an example in one call of each attack, with the settings of `measure.attack_set`
_ATTACKS = {
    "fgsm": Passes(1, 1),
    "apgd": Passes(1, 100),
    "square": Passes(5000, 0),
    # APGD-CE, APGD and FAB on 9 targets each (a FAB step goes forward once more), Square
    "autoattack": Passes(5000 + 900, 100 + 900 + 900),
}
#: FMN, and FAB towards 3 targets, 100 steps each, and the bisections of what they find
_MINIMAL = Passes(2 * 15 + 300, 100 + 300)
#: PGD-20 at up to 8 growing eps, APGD-20 and -80, Square with 500 queries
_SANITY = Passes(500 + 10, 8 * 20 + 20 + 80)


def text_queries(config: Config, *, models: int, n: int) -> int:
    """Most queries of the attacks on text, those of the headline and the dense networks."""
    section = config.evaluation
    each = min(section.sentences, n) * section.queries
    return min(3, models) * len(section.text) * each


def measuring_passes(config: Config, *, models: int, n: int, classes: int, curve: int) -> Passes:
    """Passes in measuring `models` networks on n examples each.

    curve: eps of the curve of accuracy against eps, one PGD each.
    """
    section = config.evaluation
    targets = min(9, classes - 1) / 9
    whole = _ATTACKS["autoattack"]
    attacks = {
        **_ATTACKS,
        "autoattack": Passes(
            5000 + round(900 * targets), 100 + round((whole.gradient - 100) * targets)
        ),
    }
    pgd = Passes(section.restarts, section.steps * section.restarts)
    each = Passes(1) + attacks["fgsm"] + pgd
    for name in section.more:
        each += attacks[name]
    if section.curve:
        each += Passes(curve, curve * section.steps)
    compared = min(3, models)  # the dense networks and the headline
    return (
        each.times(models * n)
        + _MINIMAL.times(compared * min(section.minimal, n))
        + _SANITY.times(min(n, 100))
    )
