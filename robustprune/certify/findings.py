"""What a verification found, and its plain-text form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustprune.run.terminal import printable

#: how many examples a finding names
_NAMED = 8


@dataclass(frozen=True)
class CheckResult:
    """One thing that was checked, or that could not be.

    Attributes:
        ok: nothing speaks against it.
        checked: whether anything would.
    """

    name: str
    ok: bool
    detail: str
    checked: bool = True


def about_examples(name: str, wrong: Iterable[int], fine: str, complaint: str) -> CheckResult:
    """A finding that names the examples which are not as they should be."""
    indices = set(wrong)
    if not indices:
        return CheckResult(name, True, fine)
    return CheckResult(name, False, f"{complaint}: {named(indices)}")


def named(indices: Iterable[int]) -> str:
    """example 7; examples 3, 7; the first few and how many more"""
    ranked = sorted(indices)
    more = f" and {len(ranked) - _NAMED} more" if len(ranked) > _NAMED else ""
    first = ", ".join(str(i) for i in ranked[:_NAMED])
    return f"example{'s' * (len(ranked) > 1)} {first}{more}"


def unchecked(name: str, detail: str) -> CheckResult:
    """Something that a file says and nobody has looked at."""
    return CheckResult(name, True, detail, checked=False)


def report_lines(findings: Sequence[CheckResult]) -> list[str]:
    """One line a finding, what was not checked after all others, and a last one with the verdict.

    Whatever stands in the files cannot look like a line of ours: see `printable`.
    """
    made = [finding for finding in findings if finding.checked]
    left = [finding for finding in findings if not finding.checked]
    lines = [
        f"{'ok' if finding.ok else 'FAILED':6}  {printable(f'{finding.name}: {finding.detail}')}"
        for finding in made
    ]
    lines += [f"not checked: {printable(f'{one.name}: {one.detail}')}" for one in left]
    failed = sum(not finding.ok for finding in made)
    verdict = (
        f"{failed} of {len(made)} checks failed; do not rely on this file"
        if failed
        else f"all {len(made)} checks passed"
    )
    return [*lines, f"{verdict}; not checked, see above: {len(left)}" if left else verdict]
