"""The attacks of an evaluation, by their names in tables and files."""

from __future__ import annotations

from collections.abc import Sequence

from attacks import APGD, FGSM, PGD, Attack, AutoAttack, Square, ThreatModel

#: the attacks that can be added to FGSM and PGD
MORE = ("apgd", "square", "autoattack")


def attack_set(
    threat: ThreatModel,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 5,
    more: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Attack]:
    """Return FGSM, PGD-`steps` and those in `more`, seeded, so that all models get the same starts.

    Args:
        step_size, restarts: the step size (in input units, None for the default) and the restarts
            of PGD.
        more: any of `MORE`; "autoattack" is the standard protocol of Croce & Hein 2020.

    Raises:
        ValueError: `more` has another name.
    """
    others: dict[str, Attack] = {
        "apgd": APGD(threat, steps=100, seed=seed),
        "square": Square(threat, seed=seed),
        "autoattack": AutoAttack(threat, seed=seed),
    }
    unknown = [name for name in more if name not in others]
    if unknown:
        raise ValueError(f"there is no attack {unknown[0]!r}; choose any of {', '.join(others)}")
    pgd = PGD(threat, steps=steps, step_size=step_size, restarts=restarts, seed=seed)
    chosen: dict[str, Attack] = {"fgsm": FGSM(threat), f"pgd{steps}": pgd}
    return chosen | {name: others[name] for name in more}
