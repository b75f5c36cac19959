"""Write numbers and names in the same way in every output."""

from __future__ import annotations

import re
from collections.abc import Sequence

from robustprune.measure.statistics import Proportion
from robustprune.report.records import AttackRecord, ThreatRecord

_NORM_NAMES = {"linf": "L∞", "l2": "L2", "l1": "L1"}


#: what the two densities of a table are
DENSITIES = (
    "Density is the kept share of the weights that masks can cover, and “network” that of all "
    "parameters, with biases, norms and whatever has no mask."
)


def percent(fraction: float) -> str:
    """Write 0.84 as 84.0 (percent; the sign is in the heading)."""
    return f"{100 * fraction:.1f}"


def interval(measured: Proportion) -> str:
    """Write an interval as [75.3, 90.6], in percent."""
    low, high = measured.ci95
    return f"[{percent(low)}, {percent(high)}]"


def p_value(p: float) -> str:
    """Write a p-value as = 0.034, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def exact_title(title: str, density: float) -> str:
    """Write "RST, 0.2 kept" of a network that keeps 0.25 as "RST, 0.2 asked, 0.25 kept".

    The requested density is a share of the maskable weights, in whole groups. The kept density is a
    share of all of them, and may be larger.
    """
    said = re.search(r", (\d*\.?\d+(?:e-?\d+)?) kept", title)
    if said is None or f"{float(said[1]):.3g}" == f"{density:.3g}":
        return title
    return f"{title[: said.start()]}, {said[1]} asked, {density:.3g} kept{title[said.end() :]}"


def share(density: float) -> str:
    """Write 0.05 as 5%, and 0.0123 as 1.23%."""
    return f"{100 * density:.3g}%"


def count(number: int) -> str:
    return f"{number:,}"


def file_size(size: int) -> str:
    """Write 12345 as 12.3 kB."""
    if size < 1000:
        return f"{size} B"
    if size < 1_000_000:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.1f} MB"


def norm_name(norm: str) -> str:
    return _NORM_NAMES[norm]


def threat_phrase(threat: ThreatRecord) -> str:
    """Write a threat model as L∞ ≤ 0.1 (input units, inputs kept in [0, 1])."""
    kept_in = (
        "inputs not bounded"
        if threat.bounds is None
        else f"inputs kept in [{threat.bounds[0]:g}, {threat.bounds[1]:g}]"
    )
    return f"{norm_name(threat.norm)} ≤ {threat.eps:g} ({threat.unit}, {kept_in})"


def attack_label(attack: AttackRecord) -> str:
    """Write pgd20 with restarts=5 in its description as PGD-20 ×5."""
    split = re.fullmatch(r"([a-z]+)(\d+)", attack.name)
    label = f"{split[1].upper()}-{split[2]}" if split else attack.name.upper()
    restarts = re.search(r"\brestarts=(\d+)", attack.description)
    return f"{label} ×{restarts[1]}" if restarts and restarts[1] != "1" else label


def listing(words: Sequence[str]) -> str:
    """Join words as a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
