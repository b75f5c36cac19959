"""Show the adversarial examples that were trained on: their scores, and the best and worst of
them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from robustprune.report.arrays import SelectionRecord, WaveRecord
from robustprune.report.panels import wrap
from robustprune.report.records import RunRecord
from robustprune.report.style import SERIES_COLOURS, Plot, canvas, finish
from robustprune.run.checkpoint import load_tensors
from robustprune.run.rundir import SELECTION

_GREY, _TAKEN, _LEFT = SERIES_COLOURS[0], SERIES_COLOURS[1], SERIES_COLOURS[2]


def read_selections(run_dir: Path, models: Sequence[str]) -> dict[str, SelectionRecord]:
    """Read the selections of those models that have some.

    Raises:
        ValueError: a file is damaged or malformed; the message names it.
    """
    paths = {name: run_dir / "models" / name / SELECTION for name in models}
    return {name: _read(path) for name, path in paths.items() if path.exists()}


def _read(path: Path) -> SelectionRecord:
    tensors, _ = load_tensors(path)
    needed = {"epochs", "scores", "weights", "labels", "shown", "x", "x_adv"}
    if set(tensors) != needed:
        raise ValueError(f"{path} has {sorted(tensors)}, expected {', '.join(sorted(needed))}")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    epochs, labels, shown = arrays["epochs"], arrays["labels"], arrays["shown"]
    scores, weights = arrays["scores"].astype(np.float64), arrays["weights"].astype(np.float64)
    shape = (len(epochs), len(labels))
    if scores.shape != shape or weights.shape != shape or 0 in shape:
        raise ValueError(
            f"{path}: scores {scores.shape} and weights {weights.shape} do not fit {shape[0]} "
            f"selections of {shape[1]} candidates"
        )
    x, x_adv = arrays["x"], arrays["x_adv"]
    if (
        x.shape != x_adv.shape
        or len(x) != len(shown)
        or not np.all((shown >= 0) & (shown < shape[1]))
    ):
        raise ValueError(f"{path}: what is shown does not fit its {shape[1]} candidates")
    few = len(shown) // 2
    places = [f"best {i + 1}" for i in range(few)] + [f"worst {i + 1}" for i in range(few)]
    waves = [
        WaveRecord(int(i), int(labels[i]), float(scores[-1, i]), place, x[row], x_adv[row])
        for row, (i, place) in enumerate(zip(shown, places, strict=True))
        if x.ndim == 3  # (S, channels, length): images have no waveform
    ]
    return SelectionRecord(epochs, scores, weights, labels, tuple(waves))


def score_figures(run: RunRecord) -> list[Plot]:
    """Plot the scores in order and as a histogram: two figures for each network."""
    return [
        draw(name, _titled(run, name), run.selections[name])
        for name in _looked_at(run)
        for draw in (_sorted_plot, _histogram)
    ]


def wave_figures(run: RunRecord) -> list[Plot]:
    """Plot the best and the worst candidates of the last network in `_looked_at`."""
    return [_wave(name, one) for name in _looked_at(run)[-1:] for one in run.selections[name].waves]


def _looked_at(run: RunRecord) -> list[str]:
    """Return the dense network and the headline model, or else any network with a selection."""
    wanted = [n for n in ("adversarial", run.metrics.headline) if n in run.selections]
    return list(dict.fromkeys(wanted or list(run.selections)[:1]))


def _titled(run: RunRecord, name: str) -> str:
    model = run.metrics.find(name)
    assert model is not None, "collect reads the selections of the run's models"
    epoch = int(run.selections[name].epochs[-1])
    return wrap(f"{model.title}, after {epoch} epochs")


def _taken(selection: SelectionRecord) -> str:
    taken = selection.weights[-1] > 0
    by_class = [
        f"{int(taken[selection.labels == label].sum())} of {int((selection.labels == label).sum())}"
        f" of class {label}"
        for label in np.unique(selection.labels)
    ]
    return f"{int(taken.sum())} of {len(taken)} taken: {', '.join(by_class)}"


def _sorted_plot(name: str, title: str, selection: SelectionRecord) -> Plot:
    scores, taken = selection.scores[-1], selection.weights[-1] > 0
    order = np.argsort(-scores, kind="stable")
    rank = np.arange(1, len(order) + 1)
    with canvas(width=5.2, height=3.0) as (figure, axes):
        for label, colour, marker, mask in (
            ("taken", _TAKEN, "o", taken[order]),
            ("left out", _LEFT, "x", ~taken[order]),
        ):
            if mask.any():
                points = scores[order][mask]
                axes.plot(rank[mask], points, marker, color=colour, label=label, linestyle="none")
        axes.set_xlabel(wrap(f"candidate, by value; {_taken(selection)}"), fontsize=9)
        axes.set_ylabel("value")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure.legend(loc="outside lower left", ncols=2)
        axes.set_title(title)
        alt = (
            f"Values of {len(scores)} candidates for {name}, from {scores.max():.3g} down to "
            f"{scores.min():.3g}; {_taken(selection)}."
        )
        return finish(figure, key=f"selection-values-{name}", alt=alt)


def _histogram(name: str, title: str, selection: SelectionRecord) -> Plot:
    scores, taken = selection.scores[-1], selection.weights[-1] > 0
    with canvas(width=5.2, height=3.0) as (figure, axes):
        axes.hist(
            [scores[taken], scores[~taken]],
            bins=min(30, max(5, len(scores) // 4)),
            stacked=True,
            color=[_TAKEN, _LEFT],
            label=["taken", "left out"],
        )
        axes.set_xlabel("value")
        axes.set_ylabel("candidates")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower left", ncols=2)
        axes.set_title(title)
        alt = f"Histogram of the values of {len(scores)} candidates for {name}."
        return finish(figure, key=f"selection-histogram-{name}", alt=alt)


def _wave(name: str, wave: WaveRecord) -> Plot:
    distance = np.abs(wave.x_adv - wave.x).max(axis=1)
    channel = int(distance.argmax())
    with canvas(width=3.6, height=2.3) as (figure, axes):
        axes.plot(wave.x[channel], color=_GREY, linewidth=1.2, label="clean")
        colour = _TAKEN if wave.place.startswith("best") else _LEFT
        axes.plot(wave.x_adv[channel], color=colour, linewidth=1.2, label="adversarial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_title(f"{wave.place}: series {wave.index}, class {wave.label}", fontsize=9)
        axes.set_xlabel(f"value {wave.score:.3g}, |δ| up to {distance[channel]:.3g}", fontsize=9)
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
        alt = (
            f"Adversarial example {wave.index} of class {wave.label} over its clean series, "
            f"{wave.place} by value ({wave.score:.3g}), changed by up to {distance[channel]:.3g}."
        )
        return finish(figure, key=f"selection-{wave.place.replace(' ', '-')}-{name}", alt=alt)
