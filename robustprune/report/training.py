"""The figures of a report that show how trainings and searches went, epoch by epoch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from robustprune.minmax import EpochRecord as LoopRecord
from robustprune.report.panels import groups, legend_below, looks_of, suffix, titled, wrap
from robustprune.report.records import EpochRecord, ModelRecord, RunRecord
from robustprune.report.style import Look, Plot, canvas, finish

_MANY_EPOCHS = 15  # with more epochs, a marker at each one would hide the line
_SMOOTH = 20  # the line is a mean over this part of all epochs

Read = Callable[["EpochRecord | LoopRecord"], float | None]


@dataclass(frozen=True)
class Line:
    """One network's figures: the epochs and the values, as many of each."""

    title: str
    epochs: NDArray[np.float64]
    values: NDArray[np.float64]
    look: Look


def line_of(
    title: str, history: Iterable[EpochRecord | LoopRecord], look: Look, read: Read
) -> Line:
    """Return what `read` finds in a history; epochs in which it was not measured are left out."""
    points = [(one.epoch, value) for one in history if (value := read(one)) is not None]
    epochs, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return Line(title, epochs, values, look)


#: the figures of every training: key, title and how they are read
PANELS: tuple[tuple[str, str, Read], ...] = (
    ("loss", "training loss", lambda epoch: epoch.loss),
    ("clean", "clean batch accuracy (%)", lambda epoch: _hundred(epoch.clean)),
    ("robust", "attacked batch accuracy (%)", lambda epoch: _hundred(epoch.robust)),
    ("val-clean", "clean validation accuracy (%)", lambda epoch: _hundred(epoch.val_clean)),
    ("val-robust", "attacked validation accuracy (%)", lambda epoch: _hundred(epoch.val_robust)),
)


def training_curves(run: RunRecord) -> list[Plot]:
    """Plot loss, clean and attacked batch accuracy and, where measured, validation, by epoch."""
    return [
        _plot(run, models, density=density, key=key, label=label, read=read)
        for density, models in groups(_trained(run))
        for key, label, read in PANELS
        if any(read(epoch) is not None for m in models for epoch in run.histories[m.name])
    ]


def search_figures(run: RunRecord) -> list[Plot]:
    """Plot what the searches record about themselves by epoch: residuals of ADMM, rates of HARP."""
    names = dict.fromkeys(
        name
        for model in _trained(run)
        for epoch in run.histories[model.name]
        for name in epoch.figures
    )

    def recorded(models: Sequence[ModelRecord], name: str) -> list[ModelRecord]:
        return [m for m in models if any(name in e.figures for e in run.histories[m.name])]

    return [
        _plot(
            run,
            recorded(models, name),
            density=density,
            key=re.sub(r"\W+", "-", name),
            label=name,
            read=lambda epoch, name=name: epoch.figures.get(name),  # type: ignore[misc]
        )
        for density, models in groups(_trained(run))
        for name in names
        if recorded(models, name)
    ]


def epoch_plot(lines: Sequence[Line], *, key: str, title: str, alt: str) -> Plot:
    """Plot lines by epoch. A training with many epochs is drawn as a running mean, over the faint
    line of its single epochs."""
    rows = sum(wrap(line.title).count("\n") + 1 for line in lines)
    with canvas(width=4.4, height=2.9 + 0.2 * rows) as (figure, axes):
        for line in lines:
            count = len(line.epochs)
            width = max(1, count // _SMOOTH)
            if width > 1:
                axes.plot(
                    line.epochs, line.values, color=line.look.colour, linewidth=0.7, alpha=0.35
                )
            axes.plot(
                line.epochs,
                running_mean(line.values, width),
                label=wrap(line.title),
                markevery=1 if count <= _MANY_EPOCHS else count // 8,
                **line.look.line(),
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("epoch")
        axes.set_title(title)
        legend_below(figure, axes)
        return finish(figure, key=f"training-{key}", alt=alt)


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return for each value the mean of those at most `width` // 2 places away, which are fewer
    near the ends."""
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low), dtype=np.float64)


def _trained(run: RunRecord) -> list[ModelRecord]:
    """Return the networks that were trained epoch by epoch, and not solved layer by layer."""
    return [m for m in run.metrics.models if all(e.layer is None for e in run.histories[m.name])]


def _plot(
    run: RunRecord,
    models: Sequence[ModelRecord],
    *,
    density: str,
    key: str,
    label: str,
    read: Read,
) -> Plot:
    look = looks_of(run.metrics)
    lines = [line_of(m.title, run.histories[m.name], look[m.family], read) for m in models]
    name = f"{key}{suffix(density)}"
    return epoch_plot(lines, key=name, title=titled(label, density), alt=f"{label} by epoch.")


def _hundred(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
