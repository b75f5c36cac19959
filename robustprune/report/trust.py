"""The page of `robustprune trust`: what a compressed network loses beside the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustprune.measure.calibration import Calibration
from robustprune.measure.change import ALPHA, POWER, Change
from robustprune.measure.disagreement import Disagreement, Flips
from robustprune.report.fill import render_html, render_markdown
from robustprune.report.paired import signed
from robustprune.report.style import inline, page_colours
from robustprune.report.summary import Line
from robustprune.report.trust_plots import dot_plot, reliability
from robustprune.report.trust_sections import Section
from robustprune.report.wording import listing, p_value
from robustprune.run.checkpoint import write_atomically

#: what the tests are, below the table
METHOD = (
    "Both networks saw the same examples, so they are compared in pairs. Shares of examples: "
    "McNemar's exact test, with a paired bootstrap interval (where fewer than 10 examples differ, "
    "or all but fewer than 10 change alike, an exact one). AUROC: DeLong's test. Means, such as "
    "losses: a test that swaps the two values at random on each example, with a paired bootstrap "
    "interval over examples. All others: the normal distribution with the standard error of that "
    "bootstrap. With fewer than 10 examples the intervals of means and of all others are of "
    "Student's t, and no p-value is below 2^(1 − n). The p-values are corrected "
    f"for the number of rows by Holm's method, and a difference is shown where p ≤ {ALPHA:g}. "
    "Where none is shown, the last column says how large a difference would have been shown with "
    f"a probability of {POWER:.0%}. Of a value that is the same on these examples the interval may "
    "be a point, and says nothing about others. The intervals are for each row by itself, and for "
    "the drawing of these examples: another training may move all of them."
)


@dataclass(frozen=True)
class TrustPage:
    """What the page shows.

    Attributes:
        name: the name of the run.
        subtitle: data and seed.
        dense, compressed: the titles of the two networks.
        changes: every measure, in the order of the table.
        disagreement: how answers differ; None for language models.
        calibrations: title -> (dense, compressed), for reliability diagrams.
        protocol: pairs (what, how it was made).
        command: how to make the page again.
        sections: measures that were asked for by name.
    """

    name: str
    subtitle: str
    dense: str
    compressed: str
    changes: tuple[Change, ...]
    disagreement: Disagreement | None
    calibrations: dict[str, tuple[Calibration, Calibration]]
    protocol: tuple[tuple[str, str], ...]
    command: str
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of the table, as text."""

    name: str
    dense: str
    compressed: str
    change: str
    interval: str
    p: str
    verdict: str
    strong: bool
    n: int


def write_trust(folder: Path, page: TrustPage) -> list[Path]:
    """Write trust.html, trust.md and its plots; each file whole or not at all.

    Raises:
        OSError: the folder can't be written to.
    """
    plots = [dot_plot(page.changes), *reliability(page.calibrations)]
    context = {
        "page": page,
        "rows": rows(page.changes),
        "summary": summary(page),
        "flips": _flip_rows(page.disagreement),
        "plots": plots,
        "sections": [(one, rows(one.changes)) for one in page.sections],
        "method": METHOD,
        "inline": inline,
        "page_colours": page_colours(),
    }
    (folder / "plots").mkdir(exist_ok=True)
    for plot in plots:
        write_atomically(folder / "plots" / f"{plot.key}.svg", plot.svg)
    return [
        write_atomically(folder / "trust.html", render_html("trust.html.j2", context)),
        write_atomically(folder / "trust.md", render_markdown("trust.md.j2", context)),
    ]


def rows(found: Sequence[Change]) -> list[Row]:
    """Return the lines of the table."""
    return [
        Row(
            name=one.name,
            dense=value(one.dense, one.unit),
            compressed=value(one.compressed, one.unit),
            change=difference(one.difference, one.unit),
            interval=f"[{', '.join(difference(end, one.unit) for end in one.ci95)}]",
            p=p_value(one.adjusted).removeprefix("= "),
            verdict=_verdict(one),
            strong=one.shown,
            n=one.n,
        )
        for one in found
    ]


def value(number: float, unit: str) -> str:
    """Write 0.86 as 86.0%, and values in other units with their unit; a score has none."""
    if unit == "share":
        return f"{100 * number:.1f}%"
    return f"{number:.3g}" if unit == "score" else f"{number:.3g} {unit}"


def difference(number: float, unit: str) -> str:
    """Write a difference of shares in points, and others as they are, with a sign."""
    if unit == "share":
        return signed(100 * number)
    return f"{number:+.2g}".replace("-", "−") if number else "0"


def _verdict(one: Change) -> str:
    if one.shown:
        return one.verdict
    if one.smallest is None:
        what = "the same on these examples" if one.same else "these are too few to show any"
        return f"no difference shown; {what}"
    least = f"{100 * one.smallest:.1f} points"
    if one.unit != "share":
        least = value(float(f"{one.smallest:.2g}"), one.unit)
    return f"no difference shown; {least} would have been"


def summary(page: TrustPage) -> list[Line]:
    """Return the lines of "In short"."""
    lines = [Line("Compared", f"{page.compressed}, beside {page.dense}")]
    for verdict in ("worse", "better"):
        names = [one.name for one in page.changes if one.verdict == verdict]
        said = listing(names) if names else "nothing, as far as these examples can show"
        lines.append(Line(verdict.capitalize(), said, caution=verdict == "worse" and bool(names)))
    open_rows = sum(not one.shown for one in page.changes)
    lines.append(
        Line("No difference shown", f"{open_rows} of {len(page.changes)} measures; that is no proof"
             " that they are equal: see the last column")
    )  # fmt: skip
    if page.disagreement is not None:
        found = page.disagreement
        low, high = found.churn.ci95
        lines.append(
            Line(
                "Other answers",
                f"on {found.churn.value:.1%} [{100 * low:.1f}, {100 * high:.1f}] of the examples: "
                f"{found.lost} that only the dense network has right, {found.won} that only the "
                "compressed one has right",
            )
        )
    return lines


def _flip_rows(found: Disagreement | None) -> list[tuple[str, list[tuple[Flips, str, str]]]]:
    """Return tables of who loses: by class, and by group where there are groups."""
    if found is None:
        return []
    tables = [("class", found.classes), *([("group", found.groups)] if found.groups else [])]
    return [
        (
            kind,
            [
                (
                    one,
                    f"{signed(100 * one.change)} "
                    f"[{signed(100 * one.ci95[0])}, {signed(100 * one.ci95[1])}]",
                    p_value(one.p).removeprefix("= "),
                )
                for one in flips
            ],
        )
        for kind, flips in tables
    ]
