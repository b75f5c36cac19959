"""The findings of a verification, and their form as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustprune.run.terminal import shown

#: the largest number of examples that a finding names
_NAMED = 8
#: the largest number of characters of a line, which may quote a file
_LONGEST = 1000


@dataclass(frozen=True)
class CheckResult:
    """The result of one check, or something that could not be checked.

    Attributes:
        ok: whether nothing speaks against it.
        checked: whether it was checked at all.
    """

    name: str
    ok: bool
    detail: str
    checked: bool = True


def about_examples(name: str, wrong: Iterable[int], fine: str, complaint: str) -> CheckResult:
    """Return a finding that names the examples which failed the check."""
    indices = set(wrong)
    if not indices:
        return CheckResult(name, True, fine)
    return CheckResult(name, False, f"{complaint}: {named(indices)}")


def named(indices: Iterable[int]) -> str:
    """Write "example 7", "examples 3, 7", or the first few and the number of the others."""
    ranked = sorted(indices)
    more = f" and {len(ranked) - _NAMED} more" if len(ranked) > _NAMED else ""
    first = ", ".join(str(i) for i in ranked[:_NAMED])
    return f"example{'s' * (len(ranked) > 1)} {first}{more}"


def unchecked(name: str, detail: str) -> CheckResult:
    """Return a finding for something that the file says and that was not checked."""
    return CheckResult(name, True, detail, checked=False)


def report_lines(findings: Sequence[CheckResult]) -> list[str]:
    """Return a line for each finding, those not checked, and a last line with the verdict.

    Text from the files can neither imitate one of these lines nor flood them, see `shown`.
    """
    made = [finding for finding in findings if finding.checked]
    left = [finding for finding in findings if not finding.checked]
    lines = [f"{'ok' if finding.ok else 'FAILED':6}  {_line(finding)}" for finding in made]
    lines += [f"not checked: {_line(finding)}" for finding in left]
    failed = sum(not finding.ok for finding in made)
    verdict = (
        f"{failed} of {len(made)} checks failed; do not rely on this file"
        if failed
        else f"all {len(made)} checks passed"
    )
    return [*lines, f"{verdict}; not checked, see above: {len(left)}" if left else verdict]


def _line(finding: CheckResult) -> str:
    return shown(f"{finding.name}: {finding.detail}", _LONGEST)
