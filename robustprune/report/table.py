"""The main table: one row for each network, the same in HTML, Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from robustprune.measure.statistics import Proportion
from robustprune.report.causal import causal_table
from robustprune.report.causal_records import is_causal
from robustprune.report.collect import parse_metrics
from robustprune.report.records import WORST, MetricsRecord, ModelRecord
from robustprune.report.wording import attack_label, count, file_size, percent
from robustprune.run.constant import NOTE
from robustprune.run.terminal import printable


@dataclass(frozen=True)
class Column:
    """A measured column: its heading and the kind of its figures."""

    title: str
    note: str


@dataclass(frozen=True)
class Cell:
    value: str
    low: str
    high: str
    n: str


@dataclass(frozen=True)
class Row:
    title: str
    is_headline: bool
    note: str
    density: str
    whole: str
    kept: str
    total: str
    cells: tuple[Cell, ...]
    n: str
    file_size: str


@dataclass(frozen=True)
class MainTable:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def main_table(metrics: MetricsRecord, *, constant: Collection[str] = ()) -> MainTable:
    """Return clean accuracy, each attack and the worst case per example, for every network.

    constant: names of more networks that give one class for every input, besides those that the
        run itself found. They come last and are marked, because they are not robust.
    """
    constant = metrics.constant.union(constant)
    attacks = [Column(attack_label(a), f"{a.bound} bound") for a in metrics.attacks]
    columns = (
        Column("clean", "no attack"),
        *attacks,
        Column("worst case", "of all attacks"),
    )
    names = [attack.name for attack in metrics.attacks]
    return MainTable(
        columns=columns,
        rows=tuple(
            _row(model, names, metrics.headline, NOTE if model.name in constant else "")
            for model in sorted(metrics.models, key=lambda model: model.name in constant)
        ),
    )


def terminal_table(metrics: Mapping[str, object]) -> Table:
    """Return the main table for a terminal, from the content of metrics.json.

    Raises:
        ValueError: the content does not follow the schema.
    """
    if is_causal(metrics):
        return causal_table(metrics)
    record = parse_metrics(metrics)
    content = main_table(record)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(printable(f"{record.run}: accuracy in %, its 95% interval, n")),
        caption=Text(_CAUTION) if any(row.note for row in content.rows) else None,
        padding=(0, 1, 1, 0),
        pad_edge=False,
    )
    # Short lines in each cell, so that every figure fits into 80 columns.
    table.add_column("network", overflow="fold", min_width=14)
    table.add_column("density,\nkept", justify="right", no_wrap=True)
    for column in content.columns:
        table.add_column(Text(printable(column.title)), justify="right", no_wrap=True)
    for row in content.rows:
        strong = "bold" if row.is_headline and not row.note else ""
        title = Text(printable(row.title), strong)
        if row.note:
            title.append(f"\n{row.note}", "dim")
        table.add_row(
            title,
            _stack(row.density, row.kept, _of_what(row), strong),
            *(
                _stack(cell.value, f"{cell.low}–{cell.high}", f"n={cell.n}", strong)
                for cell in row.cells
            ),
        )
    return table


_CAUTION = (
    "A network that gives one class for everything cannot be attacked; it comes last, and its "
    "figures say nothing of robustness."
)


def _of_what(row: Row) -> str:
    """Return the number of maskable weights, and the density of the whole network below it."""
    return f"of {row.total}" + (f"\n{row.whole} of all" if row.whole else "")


def _stack(first: str, second: str, third: str, strong: str) -> Text:
    """Write some lines, the first of which is the most important one."""
    return Text.assemble((first, strong), "\n", (second, "dim"), "\n", (third, "dim"))


def _row(model: ModelRecord, attacks: list[str], headline: str, note: str) -> Row:
    measured = [model.clean, *(model.robust[name] for name in (*attacks, WORST))]
    return Row(
        title=model.title,
        is_headline=model.name == headline,
        note=note,
        density=f"{model.density:.3g}",
        whole="" if model.whole_density is None else f"{model.whole_density:.3g}",
        kept=count(model.kept),
        total=count(model.total),
        cells=tuple(_cell(one) for one in measured),
        n=_numbers(measured),
        file_size=file_size(model.file_bytes),
    )


def _cell(measured: Proportion) -> Cell:
    low, high = map(percent, measured.ci95)
    return Cell(percent(measured.value), low, high, count(measured.n))


def _numbers(measured: list[Proportion]) -> str:
    """Return the numbers of examples: one where all columns agree, otherwise one for each
    column."""
    numbers = [count(one.n) for one in measured]
    return numbers[0] if len(set(numbers)) == 1 else " / ".join(numbers)
