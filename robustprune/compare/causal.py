"""Compare runs on causal language models: perplexity by method and by what is pruned."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from robustprune.compare.export import as_text
from robustprune.compare.gather import config_tree, group_of
from robustprune.report.causal import figure, interval
from robustprune.report.causal_plots import over_shares
from robustprune.report.causal_records import CausalRecord, Figure, collect_causal, is_causal
from robustprune.report.fields import parse_json, read_text
from robustprune.report.fill import escape_markdown, render_html
from robustprune.report.style import Plot, inline, looks, page_colours
from robustprune.run.checkpoint import write_atomically
from robustprune.run.terminal import printable

#: how cells are to be read
READING = (
    "Perplexity: the mean ± sample standard deviation over seeds, or one seed's [95% interval]"
)


@dataclass(frozen=True)
class CausalRow:
    """A method of the runs that differ in nothing but the seed.

    Attributes:
        title: the name of the method, with that of its run where several runs have it.
        found: for each level the perplexities, one a seed.
    """

    title: str
    run: str
    method: str
    found: dict[str, tuple[Figure, ...]]


@dataclass(frozen=True)
class CausalBoard:
    """Runs of one model that are measured on the same windows.

    Attributes:
        dense: the perplexity of the dense network, which is the same in all.
    """

    model: str
    text: str
    windows: int
    window: int
    dense: Figure
    levels: tuple[str, ...]
    rows: tuple[CausalRow, ...]

    @property
    def title(self) -> str:
        return f"{self.model} on {self.text}, {self.windows} windows of {self.window} tokens"


def is_causal_run(run: Path) -> bool:
    """Return whether a run directory is that of a causal language model.

    Raises:
        ValueError: its metrics.json is unreadable.
    """
    path = run / "metrics.json"
    return is_causal(parse_json(read_text(path), source=str(path)).mapping())


def causal_boards(runs: Sequence[Path]) -> list[CausalBoard]:
    """Read runs and sort them into boards.

    Raises:
        ValueError: a run cannot be read, or two runs have the same config and seed.
    """
    seen: dict[tuple[str, int], Path] = {}
    boards: dict[tuple[object, ...], dict[str, list[CausalRecord]]] = {}
    for run in runs:
        record = collect_causal(run)
        group = group_of(config_tree(read_text(run / "config.yaml"), run))
        if (group, record.seed) in seen:
            raise ValueError(
                f"{run} and {seen[group, record.seed]} are the same config and seed; give one"
            )
        seen[group, record.seed] = run
        task, dense = record.task, record.dense.perplexity
        key = (record.model.weights, task.name, task.windows, task.window, f"{dense.value:.4g}")
        boards.setdefault(key, {}).setdefault(group, []).append(record)
    return [_board(list(groups.values())) for groups in boards.values()]


def _board(groups: list[list[CausalRecord]]) -> CausalBoard:
    first = groups[0][0]
    methods = [method for group in groups for method in group[0].methods]
    rows = []
    for group in groups:
        for method in group[0].methods:
            found = {
                level: tuple(
                    one.perplexity for record in group if (one := record.at(method, level))
                )
                for level in group[0].levels
            }
            name = group[0].run
            title = method if methods.count(method) == 1 else f"{method} ({name})"
            rows.append(CausalRow(title, name, method, {k: v for k, v in found.items() if v}))
    levels = dict.fromkeys(level for row in rows for level in row.found)
    task = first.task
    return CausalBoard(
        first.model.weights, task.name, task.windows, task.window, first.dense.perplexity,
        tuple(levels), tuple(rows),
    )  # fmt: skip


def cell(found: Sequence[Figure]) -> tuple[str, str]:
    """Return a perplexity and its spread as text."""
    if not found:
        return "", ""
    values = [one.value for one in found]
    if len(values) == 1:
        return figure(values[0]), interval(found[0])
    sd = deviation(values)
    return figure(statistics.mean(values)), "" if sd is None else f"± {figure(sd)}"


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None for one value, and where one is infinite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return statistics.stdev(values)


def terminal_causal(board: CausalBoard) -> Table:
    """Return a board for the terminal."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(printable(f"{board.title}; dense {figure(board.dense.value)}")),
        caption=Text(READING),
        pad_edge=False,
    )
    table.add_column("method", overflow="fold", min_width=14)
    for level in board.levels:
        table.add_column(Text(printable(level)), justify="right", no_wrap=True)
    for row in board.rows:
        cells = [cell(row.found.get(level, ())) for level in board.levels]
        shown = [Text.assemble(value, "\n", (spread, "dim")) for value, spread in cells]
        table.add_row(Text(printable(row.title)), *shown)
    return table


def write_causal(boards: Sequence[CausalBoard], folder: Path, runs: Sequence[Path]) -> list[Path]:
    """Write language_models.html, .csv and .md, and plots/*.svg; each file whole or not at all.

    Raises:
        OSError: the folder can't be written to.
    """
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    plots = [_plot(board, number) for number, board in enumerate(boards, start=1)]
    html = render_html(
        "compare_causal.html.j2",
        {
            "boards": list(zip(boards, plots, strict=True)),
            "inline": inline,
            "runs": [str(run) for run in runs],
            "reading": READING,
            "cell": cell,
            "figure": figure,
            "page_colours": page_colours(),
        },
    )
    for plot in filter(None, plots):
        write_atomically(folder / "plots" / f"{plot.key}.svg", plot.svg)
    return [
        write_atomically(folder / "language_models.html", html),
        write_atomically(folder / "language_models.csv", _as_csv(boards)),
        write_atomically(folder / "language_models.md", "\n".join(map(_markdown, boards))),
    ]


def _plot(board: CausalBoard, number: int) -> Plot | None:
    """Plot perplexity against the share of pruned weights; None where there is only one share."""
    shares = [level for level in board.levels if re.fullmatch(r"[0-9.]+%", level)]
    if len(shares) < 2:
        return None
    series = {
        row.title: {
            float(level[:-1]): spread(row.found[level]) for level in shares if level in row.found
        }
        for row in board.rows
    }
    said = "; ".join(
        f"{title} at {share:g}% {figure(one.value)}"
        for title, found in series.items()
        for share, one in found.items()
    )
    key = f"language-models-{number}"
    look = looks(("dense", *series))
    return over_shares(series, board.dense, look, key=key, alt=f"Perplexity by method: {said}.")


def spread(found: Sequence[Figure]) -> Figure:
    """Return the mean of perplexities, from a standard deviation below it to one above; or the one
    perplexity with its interval."""
    if len(found) == 1:
        return found[0]
    values = [one.value for one in found]
    mean, sd = statistics.mean(values), deviation(values)
    if sd is None:
        return Figure(mean, mean, mean)
    low = max(mean - sd, mean / 10)  # a logarithmic axis has no place for less than 0
    return Figure(mean, low, mean + sd)


def _as_csv(boards: Sequence[CausalBoard]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "text", "windows", "window", "run", "method", "level", "seeds",
                     "perplexity", "sd", "low", "high"])  # fmt: skip
    for board in boards:
        head = [as_text(board.model), as_text(board.text), board.windows, board.window]
        dense = board.dense
        writer.writerow([*head, "", "dense", "", "", dense.value, "", dense.low, dense.high])
        for row in board.rows:
            for level, found in row.found.items():
                values, single = [one.value for one in found], len(found) == 1
                writer.writerow(
                    [
                        *(*head, as_text(row.run), as_text(row.method), level, len(values)),
                        statistics.mean(values),
                        "" if (sd := deviation(values)) is None else sd,
                        *((found[0].low, found[0].high) if single else ("", "")),
                    ]
                )
    return text.getvalue()


def _markdown(board: CausalBoard) -> str:
    lines = [
        f"{escape_markdown(board.title)}; dense {figure(board.dense.value)}. {READING}.\n",
        "| method | " + " | ".join(map(escape_markdown, board.levels)) + " |",
        "| --- " * (1 + len(board.levels)) + "|",
    ]
    for row in board.rows:
        cells = [" ".join(cell(row.found.get(level, ()))).strip() for level in board.levels]
        lines.append("| " + " | ".join((escape_markdown(row.title), *cells)) + " |")
    return "\n".join(lines) + "\n"


def causal_json(boards: Sequence[CausalBoard]) -> list[dict[str, Any]]:
    """Return the boards for a script; what is infinite is null."""
    found = [
        {
            "model": board.model,
            "text": board.text,
            "windows": board.windows,
            "window": board.window,
            "dense": board.dense.value,
            "rows": [
                {
                    "run": row.run,
                    "method": row.method,
                    "perplexity": {k: [one.value for one in v] for k, v in row.found.items()},
                }
                for row in board.rows
            ],
        }
        for board in boards
    ]
    finite: list[dict[str, Any]] = json.loads(json.dumps(found), parse_constant=lambda _: None)
    return finite
