"""Draw the figures of a board."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from robustprune.compare.board import Board, Measured, Row
from robustprune.report.panels import wrap
from robustprune.report.style import INK, SERIES_COLOURS, Look, Plot, canvas, finish, looks
from robustprune.report.wording import norm_name, share

_MANY_TICKS = 7  # with more densities, their labels would overlap


def figures(board: Board, *, prefix: str = "") -> list[Plot]:
    """Plot density against robust accuracy, the bounds of each row, r* and latency, where measured.

    prefix: the beginning of the plots' keys, which must differ between boards.
    """
    plots = [_front(board, f"{prefix}front"), _bounds(board, f"{prefix}bounds")]
    with_r = [row for row in board.rows if row.r is not None]
    if with_r:
        plots.append(_bars(with_r, lambda row: row.r, f"{prefix}r", _r_label(board)))
    timed = [row for row in board.rows if row.speed is not None]
    if timed:
        label = "latency as deployed, dense network = 1"
        plots.append(_bars(timed, lambda row: row.speed, f"{prefix}latency", label))
    return plots


def _front(board: Board, key: str) -> Plot:
    look = looks([row.family for row in board.rows])
    families = list(look)
    with canvas(width=5.6, height=3.6 + 0.2 * len(families)) as (figure, axes):
        for family in families:
            members = sorted(
                (row for row in board.rows if row.family == family), key=lambda row: row.density
            )
            _points(axes, members, family, look[family])
        front = board.front
        axes.step(
            [row.density for row in front],
            [100 * row.worst.mean for row in front],
            where="post",
            color=INK,
            linewidth=1.0,
            linestyle=(0, (1, 1.5)),
            zorder=1,
            label="Pareto front",
        )
        _density_axis(axes, [row.density for row in board.rows])
        axes.set_ylabel("robust accuracy (%), upper bound")
        axes.set_title(f"Density against accuracy at {_threat(board)}")
        figure.legend(loc="outside lower left", ncols=1, handlelength=3.4)
        named = "; ".join(
            f"{row.title} {100 * row.worst.mean:.1f}% at {share(row.density)}" for row in front
        )
        return finish(figure, key=key, alt=f"On the Pareto front: {named}.")


def _points(axes: Axes, members: list[Row], family: str, look: Look) -> None:
    axes.errorbar(
        [row.density for row in members],
        [100 * row.worst.mean for row in members],
        yerr=_percent_error([row.worst for row in members]),
        label=wrap(family),
        elinewidth=1.0,
        capsize=2.5,
        **look.line(),
    )


def _bounds(board: Board, key: str) -> Plot:
    """Plot the certified, attacked and clean accuracy of each row on one line."""
    rows = board.rows
    with canvas(width=5.6, height=1.4 + 0.32 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            low = row.worst if row.certified is None else row.certified
            axes.plot(
                [100 * low.mean, 100 * row.worst.mean],
                [place, place],
                color=SERIES_COLOURS[0],
                linewidth=1.2,
                zorder=1,
            )
        certified = [(p, row.certified) for p, row in enumerate(rows) if row.certified is not None]
        marks = (
            ("certified (lower bound)", "^", SERIES_COLOURS[1], certified),
            ("attacked (upper bound)", "v", SERIES_COLOURS[2], [*enumerate(r.worst for r in rows)]),
            ("clean", "o", SERIES_COLOURS[3], [*enumerate(r.clean for r in rows)]),
        )
        for label, marker, colour, points in marks:
            if points:
                axes.errorbar(
                    [100 * measured.mean for _, measured in points],
                    [place for place, _ in points],
                    xerr=_percent_error([measured for _, measured in points]),
                    linestyle="",
                    marker=marker,
                    color=colour,
                    elinewidth=0.8,
                    capsize=2.0,
                    label=label,
                )
        _rows_axis(axes, list(rows))
        axes.set_xlabel("accuracy (%)")
        axes.set_title(f"{_threat(board)}; bars: sd over seeds, else 95%")
        figure.legend(loc="outside lower left", ncols=3)
        said = "; ".join(
            f"{row.title}: clean {100 * row.clean.mean:.1f}%, attacked {100 * row.worst.mean:.1f}%"
            for row in rows
        )
        return finish(figure, key=key, alt=f"Accuracy of each network. {said}.")


def _bars(rows: list[Row], read: Callable[[Row], Measured | None], key: str, label: str) -> Plot:
    measured = [value for row in rows if (value := read(row)) is not None]
    with canvas(width=5.6, height=1.0 + 0.32 * len(rows)) as (figure, axes):
        axes.barh(
            range(len(rows)),
            [value.mean for value in measured],
            xerr=error_bars(measured) if any(value.sd for value in measured) else None,
            color=SERIES_COLOURS[1],
            height=0.6,
            error_kw={"elinewidth": 1.0, "capsize": 2.5, "ecolor": INK},
        )
        _rows_axis(axes, rows)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        said = "; ".join(
            f"{row.title} {value.mean:.3g}" for row, value in zip(rows, measured, strict=True)
        )
        return finish(figure, key=key, alt=f"{label}: {said}.")


def error_bars(measured: list[Measured], *, most: float = math.inf) -> list[list[float]]:
    """Return the lengths below and above each mean: the sd over seeds, the interval of a single
    seed, or 0. Bars are cut at 0 and `most`, because the figures lie between them."""
    below, above = [], []
    for one in measured:
        low, high = one.interval or (one.mean - (one.sd or 0.0), one.mean + (one.sd or 0.0))
        below.append(one.mean - max(low, 0.0))
        above.append(min(high, most) - one.mean)
    return [below, above]


def _percent_error(measured: list[Measured]) -> list[list[float]]:
    """Return the error bars of proportions, in percent."""
    return [[100 * length for length in side] for side in error_bars(measured, most=1.0)]


def _rows_axis(axes: Axes, rows: list[Row]) -> None:
    axes.set_yticks(range(len(rows)), [wrap(row.title, width=34) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _density_axis(axes: Axes, densities: list[float]) -> None:
    axes.set_xscale("log")
    ticks = {share(density): density for density in densities}  # one tick for each label
    if len(ticks) <= _MANY_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(sorted(ticks.values())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: share(density)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("weights kept (logarithmic)")


def _threat(board: Board) -> str:
    return f"{norm_name(board.threat.norm)} ≤ {board.threat.eps:g}"


def _r_label(board: Board) -> str:
    return f"median r*, {norm_name(board.threat.norm)}, {board.threat.unit} (upper bound)"
