"""Explain the words of a report where they first stand."""

from __future__ import annotations

import re

from robustprune.report.records import AttackRecord, MetricsRecord
from robustprune.report.wording import attack_label

_NETWORKS = {
    r"\bnatural dense": ("natural dense", "all weights, trained without attack"),
    r"\badversarial dense": ("adversarial dense", "all weights, trained on attacked examples"),
    r"\bfine-tuned \(inherit\)": (
        "fine-tuned (inherit)",
        "the kept weights are trained on from the values that they have in the ticket",
    ),
    r"\bfine-tuned \(reinit\)": (
        "fine-tuned (reinit)",
        "the kept weights are drawn anew and trained",
    ),
    r"\bfine-tuned \(full\)": (
        "fine-tuned (full)",
        "all weights are trained, without the mask",
    ),
}

_ATTACKS = {
    "fgsm": "one step along the sign of the gradient",
    "pgd": "many small steps along the gradient, from random starts",
    "apgd": "PGD that chooses the size of its steps",
    "square": "a random search that needs no gradient",
    "autoattack": "the standard set of four attacks (Croce & Hein 2020)",
}


def attack_meaning(attack: AttackRecord) -> str:
    """Say in a few words what an attack does; "" for an unknown one."""
    return _ATTACKS.get(re.sub(r"\d+$", "", attack.name), "")


def terms(metrics: MetricsRecord) -> list[tuple[str, str]]:
    """Return (word, meaning) for the networks and the columns of the main table, in its order."""
    titles = "\n".join(model.title for model in metrics.models)
    methods = [(one.title, one.meaning) for one in metrics.methods]
    networks = [said for pattern, said in _NETWORKS.items() if re.search(pattern, titles)]
    attacks = [
        (attack_label(attack), meaning)
        for attack in metrics.attacks
        if (meaning := attack_meaning(attack))
    ]
    return [
        ("density", "the share of the weights that a network keeps; the others are zero"),
        *networks[:2],
        *methods,
        *networks[2:],
        *attacks,
        ("upper bound", "a stronger attack can only lower the figure"),
        ("worst case", "an example counts only if it is right under every attack of the table"),
    ]
