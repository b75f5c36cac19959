"""The figures of the trust page: changes as dots with intervals, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from robustprune.measure.calibration import Calibration
from robustprune.measure.change import Change
from robustprune.report.panels import wrap
from robustprune.report.style import FAINT, INK, SERIES_COLOURS, Plot, canvases, finish

_COLOURS = {
    "worse": SERIES_COLOURS[2],
    "better": SERIES_COLOURS[1],
    "no difference shown": SERIES_COLOURS[0],
}
_MARKERS = {"worse": "o", "better": "D", "no difference shown": "s"}


def dot_plot(changes: Sequence[Change]) -> Plot:
    """Plot how much worse the compressed network is by each measure, with 95% intervals.

    To the right is worse, whatever the measure. Each unit has a panel of its own. The grey band is
    what these examples could not have shown; it has no end where they are too few to show anything.
    """
    units: dict[str, list[Change]] = {}
    for one in changes:
        units.setdefault(one.unit, []).append(one)
    tall = [len(members) + 1.6 for members in units.values()]
    with canvases(width=8.2, height=0.9 + 0.29 * sum(tall), heights=tall) as (figure, several):
        for axes, (unit, members) in zip(several, units.items(), strict=True):
            _panel(axes, unit, members)
        handles: dict[str, Any] = {}  # by label, so that each is there once
        for axes in several:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower left", ncols=len(handles)
        )
        said = "; ".join(f"{one.name} {one.verdict}" for one in changes if one.shown)
        alt = f"Change of {len(changes)} measures, worst first. Shown: {said or 'none'}."
        return finish(figure, key="trust", alt=alt)


def _panel(axes: Axes, unit: str, members: Sequence[Change]) -> None:
    scale = 100 if unit == "share" else 1
    places = range(len(members))
    widths = [0.0 if one.smallest is None else scale * one.smallest for one in members]
    axes.barh(
        places,
        [2 * wide for wide in widths],
        left=[-wide for wide in widths],
        color=FAINT,
        height=0.78,
        label="too small to be shown by these examples",
    )
    for place, one in enumerate(members):
        if one.smallest is None and not one.same and not one.shown:
            axes.axhspan(place - 0.39, place + 0.39, color=FAINT, linewidth=0)
    axes.axvline(0, color=INK, linewidth=1.0)
    for verdict, colour in _COLOURS.items():
        mine = [(place, one) for place, one in enumerate(members) if one.verdict == verdict]
        if not mine:
            continue
        low = [_ends(one)[0] for _, one in mine]
        high = [_ends(one)[1] for _, one in mine]
        axes.errorbar(
            [scale * one.harm for _, one in mine],
            [place for place, _ in mine],
            xerr=[
                [max(0.0, scale * (one.harm - a)) for (_, one), a in zip(mine, low, strict=True)],
                [max(0.0, scale * (b - one.harm)) for (_, one), b in zip(mine, high, strict=True)],
            ],
            linestyle="",
            marker=_MARKERS[verdict],
            color=colour,
            elinewidth=1.4,
            capsize=2.5,
            label=verdict,
        )
    axes.set_yticks(places, [wrap(one.name, width=44) for one in members])
    axes.set_ylim(len(members) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    what = "percentage points" if unit == "share" else unit
    axes.set_xlabel(f"← better · difference in {what} · worse →")


def _ends(one: Change) -> tuple[float, float]:
    """Return the interval of the harm."""
    low, high = sorted(-one.better * end for end in one.ci95)
    return low, high


def reliability(calibrations: Mapping[str, tuple[Calibration, Calibration]]) -> list[Plot]:
    """Plot accuracy against confidence by bin for both networks (a reliability diagram; Guo et al.
    2017, Fig. 1), one figure for each kind of examples."""
    return [
        _diagram(title, *pair, key=f"trust-calibration-{place}")
        for place, (title, pair) in enumerate(calibrations.items())
    ]


def _diagram(title: str, dense: Calibration, compressed: Calibration, *, key: str) -> Plot:
    with canvases(width=4.4, height=3.9) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        for name, found, colour, marker in (
            ("dense", dense, SERIES_COLOURS[0], "s"),
            ("compressed", compressed, SERIES_COLOURS[2], "o"),
        ):
            filled = (found.counts > 0).numpy()
            sizes = 12 + 90 * found.counts.numpy()[filled] / found.n
            x, y = found.bin_confidence.numpy()[filled], found.bin_accuracy.numpy()[filled]
            axes.plot(x, y, color=colour, linewidth=1.2)
            axes.scatter(
                x, y, s=np.asarray(sizes), color=colour, marker=marker, zorder=3,
                label=f"{name}, ECE {found.ece:.3f}",
            )  # fmt: skip
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.set_title(title)
        figure.legend(loc="outside lower left", ncols=2)
        alt = f"{title}: ECE {dense.ece:.3f} of the dense and {compressed.ece:.3f} of the other."
        return finish(figure, key=key, alt=alt)
