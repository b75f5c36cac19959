"""Networks that give one class for every input; they are not robust."""

from __future__ import annotations

from collections.abc import Iterable

#: the end of the finding's name, after the network's name
CHECK = ": a constant answer"
#: the note on such a network in tables
NOTE = "one class for everything"


def constant_networks(findings: Iterable[tuple[str, bool]]) -> set[str]:
    """Return the names of the networks that a run found to give one class for every input.

    findings: pairs (name, whether it passed) of the checks in metrics.json.
    """
    return {name.removesuffix(CHECK) for name, ok in findings if not ok and name.endswith(CHECK)}
