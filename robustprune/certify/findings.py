"""What a verification found, and its plain-text form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustprune.run.terminal import printable

#: how many examples a finding names
_NAMED = 8


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    name: str
    ok: bool
    detail: str


def about_examples(name: str, wrong: Iterable[int], fine: str, complaint: str) -> Finding:
    """A finding that names the examples which are not as they should be."""
    indices = sorted(set(wrong))
    if not indices:
        return Finding(name, True, fine)
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    named = ", ".join(str(i) for i in indices[:_NAMED])
    return Finding(name, False, f"{complaint}: example{'s' * (len(indices) > 1)} {named}{more}")


def report_lines(findings: Sequence[Finding]) -> list[str]:
    """One line a finding, and a last one with the verdict."""
    lines = [
        f"{'ok' if finding.ok else 'FAILED':6}  {printable(f'{finding.name}: {finding.detail}')}"
        for finding in findings
    ]
    failed = sum(not finding.ok for finding in findings)
    verdict = f"{failed} of {len(findings)} checks failed; do not rely on this file"
    return [*lines, verdict if failed else f"all {len(findings)} checks passed"]
