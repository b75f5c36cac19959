"""The report of a run on a causal language model, and its table for the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from robustprune.report import wording
from robustprune.report.causal_plots import error_plots, layer_plots, perplexity_plots
from robustprune.report.causal_records import (
    CausalRecord,
    Figure,
    NetworkRecord,
    collect_causal,
    parse_causal,
)
from robustprune.report.fields import parse_json, read_text
from robustprune.report.style import Plot, inline, page_colours
from robustprune.report.wording import count, file_size
from robustprune.run.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERVALS = (
    "95% bootstrap intervals over windows (2,000 resamples). They cover the choice of windows of "
    "this text, not the choice of the text or of the calibration windows."
)


@dataclass(frozen=True)
class Cell:
    """A perplexity in the table, with its interval and its ratio to the dense network. The note is
    the share that is pruned, where rounding makes it another one than the column's."""

    value: str
    interval: str
    ratio: str
    note: str
    best: bool


@dataclass(frozen=True)
class Line:
    label: str
    text: str


def figure(value: float) -> str:
    """Write a perplexity or a ratio with four digits."""
    if not math.isfinite(value):
        return "∞"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def interval(seen: Figure) -> str:
    return f"[{figure(seen.low)}, {figure(seen.high)}]"


def cells(record: CausalRecord) -> list[tuple[str, list[Cell | None]]]:
    """Return the rows of the table: each method, and its perplexity at each level."""
    best = {
        level: min(one.perplexity.value for one in record.networks if one.level == level)
        for level in record.levels
    }
    rows = []
    for method in record.methods:
        row: list[Cell | None] = []
        for level in record.levels:
            one = record.at(method, level)
            row.append(None if one is None else _cell(one, best[level]))
        rows.append((method, row))
    return rows


def _cell(one: NetworkRecord, best: float) -> Cell:
    seen, ratio = one.perplexity, one.ratio
    return Cell(
        figure(seen.value),
        interval(seen),
        "" if ratio is None else f"× {figure(ratio.value)} {interval(ratio)}",
        _note(one),
        seen.value == best,
    )


def _note(one: NetworkRecord) -> str:
    asked = re.fullmatch(r"([0-9.]+)%", one.level or "")
    pruned = 100 * (1 - one.density)
    if asked is None or abs(float(asked[1]) - pruned) < 0.25:
        return ""
    return f"{pruned:.1f}% pruned"


def causal_table(metrics: Mapping[str, object]) -> Table:
    """Return the table for a terminal, from the content of metrics.json.

    Raises:
        ValueError: the content does not follow the schema.
    """
    record = parse_causal(metrics)
    dense = record.dense.perplexity
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(
            printable(
                f"{record.run}: perplexity by the share of pruned weights, its 95% interval; "
                f"dense {figure(dense.value)} {interval(dense)}"
            )
        ),
        padding=(0, 1, 1, 0),
        pad_edge=False,
    )
    if (line := speed_line(record)) is not None:
        table.caption, table.caption_justify = f"{line.label}: {line.text}", "left"
    table.add_column("method", overflow="fold", min_width=14)
    for level in record.levels:
        table.add_column(Text(printable(level)), justify="right", no_wrap=True)
    for method, row in cells(record):
        shown = [
            Text.assemble((cell.value, "bold" if cell.best else ""), "\n", (cell.interval, "dim"))
            if cell
            else Text("")
            for cell in row
        ]
        table.add_row(Text(printable(method)), *shown)
    return table


def summary(record: CausalRecord) -> list[Line]:
    """Return the lines of "In short"."""
    lines = [
        Line("Dense", f"perplexity {figure(record.dense.perplexity.value)} "
             f"{interval(record.dense.perplexity)} on {count(record.task.windows)} windows"),
    ]  # fmt: skip
    for level in record.levels:
        found = [one for one in record.networks if one.level == level]
        found.sort(key=lambda one: one.perplexity.value)
        first, ratio = found[0], found[0].ratio
        times = f", {figure(ratio.value)} times the dense one {interval(ratio)}" if ratio else ""
        others = ", ".join(f"{o.method} {figure(o.perplexity.value)}" for o in found[1:])
        rest = f"; {others}" if others else ""
        lines.append(
            Line(
                f"{level} pruned",
                f"the lowest perplexity is that of {first.method}, "
                f"{figure(first.perplexity.value)}{times}{rest}",
            )
        )
    speed = speed_line(record)
    return lines if speed is None else [*lines, speed]


def speed_line(record: CausalRecord) -> Line | None:
    """Return how fast the networks generate, if that was timed."""
    timed = [one.speed for one in record.networks if one.speed is not None]
    if not timed:
        return None
    dense = figure(max(one.dense for one in timed))
    sparse = [one for one in timed if one.sparse_layers]
    said = "no pruned network is faster, because no layer is faster in CSR"
    if sparse:
        ratios = [one.tokens_per_second / one.dense for one in sparse]
        low, high = (f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))
        said = (
            f"{low if low == high else f'{low} to {high}'} times as many with layers in CSR, which "
            f"is faster in {count(len(sparse))} of {count(len(timed))} pruned networks"
        )
    return Line("Speed", f"dense {dense} tokens a second for one text; {said}")


def causal_context(record: CausalRecord, run_dir: Path) -> dict[str, object]:
    """Return what the templates of the report show."""
    env_path = run_dir / "env.json"
    environment = parse_json(read_text(env_path), source=str(env_path)).mapping()
    return {
        "record": record,
        "rows": cells(record),
        "summary": summary(record),
        "illustrations": _illustrations(record),
        "intervals": INTERVALS,
        "files": [(one, _size(one)) for one in record.networks[1:]],
        "attacked": [one for one in record.networks if one.attacked is not None],
        "timed": [(one, one.speed) for one in record.networks if one.speed is not None],
        "continued": [one for one in record.networks if one.continuation is not None],
        "config": read_text(run_dir / "config.yaml"),
        "environment": {key: str(value) for key, value in environment.items()},
        "command": f"robustprune run config.yaml --seed {record.seed}",
        "figure": figure,
        "interval": interval,
        "inline": inline,
        "page_colours": page_colours(),
        "say": wording,
    }


def _size(one: NetworkRecord) -> str:
    return file_size(sum(file.bytes for file in one.files if file.name != "masks.safetensors"))


def _illustrations(record: CausalRecord) -> list[tuple[str, str, str, Sequence[Plot]]]:
    """Return (anchor, title, caption, plots) of each group of figures that has some."""
    candidates = [
        (
            "perplexity",
            "Perplexity against sparsity",
            "Bars are 95% intervals over windows. Points of one share stand slightly apart only so "
            "that their bars can be told apart.",
            perplexity_plots(record),
        ),
        (
            "layer-sparsity",
            "What is pruned of each layer",
            "Of methods that give some layers more than others. Layers are in the order in which "
            "the network runs.",
            layer_plots(record),
        ),
        (
            "layer-errors",
            "How far each layer is from its target",
            "The squared distance of a layer's outputs from those that it should give, as a share "
            "of the squared size of these. Methods differ in the target, so that a larger error "
            "need not be a worse network.",
            error_plots(record),
        ),
    ]
    return [one for one in candidates if one[3]]


def read_causal(run_dir: Path) -> tuple[dict[str, object], list[Plot]]:
    """Return the context of the templates, and all plots.

    Raises:
        ValueError: a file of the run is missing, unreadable or malformed.
    """
    record = collect_causal(run_dir)
    context = causal_context(record, run_dir)
    return context, [plot for *_, plots in _illustrations(record) for plot in plots]
