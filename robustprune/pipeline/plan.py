"""List what a config implies, stage by stage, before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

from robustprune.pipeline.fit import Training
from robustprune.pipeline.methods import ROWS, methods_of
from robustprune.run.config import Config
from robustprune.run.settings import CertifySection
from robustprune.run.terminal import shown


def planned_trainings(config: Config) -> list[Training]:
    """Return every training of the run, in the order of its table."""
    found = [
        Training("natural", "natural", config.natural.epochs),
        Training("adversarial", "robust", config.adversarial.epochs),
    ]
    if config.selection.method != "none":  # the same on all examples, to compare with
        found.insert(1, Training("adversarial_all", "robust", config.adversarial.epochs))
    for method in methods_of(config):
        for density in method.densities(config):
            found += method.trainings(config, density)
    return found


def headline_names(config: Config) -> tuple[str, ...]:
    """Return the possible names of the headline model, of which the first that exists is used: the
    result of the first method at the first density, fine-tuned by the first mode if needed."""
    method, modes = ROWS[config.search.methods[0]], config.finetune.modes
    name = method.model_name(config, config.search.density[0])
    if method.scratch or not modes:
        return (name,)
    return f"{name}-{modes[0]}", name


def check_certified(config: Config) -> None:
    """Check that the other networks to certify are networks of the run.

    Raises:
        ValueError: one is not, or it is the headline model, or it is named twice; or nothing is
            asked for that certifies them.
    """
    also = config.certify.also
    if not also:
        return
    named = [training.name for training in planned_trainings(config) if training.measured]
    headline = next(name for name in headline_names(config) if name in named)
    others = [name for name in named if name != headline]
    for name in also:
        if name == headline:
            raise ValueError(
                f"certify.also names {name}, the headline model, which is certified anyway"
            )
        if name not in others:
            raise ValueError(
                f"certify.also names {shown(name, 40)!r}, which is no network of this run; it has "
                f"{', '.join(others)}"
            )
    if len(set(also)) < len(also):
        raise ValueError(f"certify.also names a network twice: {', '.join(also)}")
    if not certifies(config.certify):
        raise ValueError(
            "certify.also names networks, but nothing certifies them; set certify.method or "
            "certify.sigma, too"
        )


def certifies(section: CertifySection) -> bool:
    """Return whether a config asks for certificates."""
    return not (section.method == "none" and section.sigma is None and section.synonyms is None)


@dataclass(frozen=True)
class Passes:
    """The largest number of passes of one example through the network. (Attacks stop on success.)

    Attributes:
        forward: the passes without a gradient.
        gradient: the forward and backward passes with the gradient of the input.
    """

    forward: int = 0
    gradient: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.gradient + other.gradient)

    def times(self, count: int) -> Passes:
        return Passes(count * self.forward, count * self.gradient)


#: the passes of an example in one call of each attack, with the settings of `measure.attack_set`
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
    """Return the largest number of queries of attacks on text, for the headline and dense
    models."""
    section = config.evaluation
    each = min(section.sentences, n) * section.queries
    return min(3, models) * len(section.text) * each


def measuring_passes(config: Config, *, models: int, n: int, classes: int, curve: int) -> Passes:
    """Return the number of passes in measuring `models` networks on n examples each.

    curve: the number of eps in the curve of accuracy against eps; each needs one PGD.
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
    compared, robust = min(3, models), min(2, models)  # the dense networks and the headline
    return (
        each.times(models * n)
        + _MINIMAL.times(compared * min(section.minimal, n))
        + _SANITY.times(robust * min(n, 100))
    )
