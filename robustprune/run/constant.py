"""Networks that give one class for everything: what they show is not robustness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: how the finding of a constant answer is named, after the network's name
CHECK = ": a constant answer"
#: what a table says of such a network
NOTE = "one class for everything"


def constant_networks(findings: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names of the networks that a run found to give one class for everything, from the
    `findings` of its metrics.json."""
    names = (str(finding["name"]) for finding in findings if not finding["ok"])
    return {name.removesuffix(CHECK) for name in names if name.endswith(CHECK)}
