"""Networks that give one class for everything: what they show is not robustness."""

from __future__ import annotations

from collections.abc import Iterable

#: how the finding of a constant answer is named, after the network's name
CHECK = ": a constant answer"
#: what a table says of such a network
NOTE = "one class for everything"


def constant_networks(findings: Iterable[tuple[str, bool]]) -> set[str]:
    """The names of the networks that a run found to give one class for everything.

    findings: (name, whether it is as it should be) of the checks in metrics.json.
    """
    return {name.removesuffix(CHECK) for name, ok in findings if not ok and name.endswith(CHECK)}
