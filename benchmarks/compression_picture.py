"""The picture of `benchmarks.compression`: by how much each measure gets worse, level by level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from benchmarks.compression_tables import Shift, level_text, shifts
from robustprune.report.style import INK, SERIES_COLOURS, Plot, canvases, finish

#: method -> the title of its panel
PANELS = {
    "ours": "layer-wise pruning",
    "magnitude": "magnitude pruning",
    "few bits": "few bits a weight",
}
_MARKERS = ("s", "D", "o", "^", "v")


def picture(found: Sequence[Mapping], case: str) -> Plot:
    """A panel for each method, a row for each measure that is a share, a dot for each level; filled
    where the change is shown. To the right is worse, whatever the measure."""
    every = [one for one in shifts(found) if one.unit == "share" and one.method in PANELS]
    methods = [name for name in PANELS if any(one.method == name for one in every)]
    measures = sorted(
        {one.measure for one in every},
        key=lambda name: -max(abs(one.mean) for one in every if one.measure == name),
    )
    widths = [1.0] * len(methods)
    height = 1.2 + 0.42 * len(measures)
    with canvases(width=3.2 + 2.6 * len(methods), height=height, widths=widths) as (
        figure,
        several,
    ):
        for axes, method in zip(several, methods, strict=True):
            mine = [one for one in every if one.method == method]
            _panel(axes, mine, measures)
            axes.set_title(PANELS[method])
            if axes is several[0]:
                axes.set_yticks(range(len(measures)), measures)
            else:
                axes.set_yticks(range(len(measures)), [""] * len(measures))
        several[0].set_xlabel("← better · change in percentage points · worse →")
        shown = [f"{one.method} {level_text(one.method, one.level)}: {one.measure}"
                 for one in every if one.shown]  # fmt: skip
        alt = f"Change of {len(measures)} measures on {case}. Shown: {'; '.join(shown) or 'none'}."
        return finish(figure, key=f"compression-{case}", alt=alt)


def _panel(axes: Axes, mine: Sequence[Shift], measures: Sequence[str]) -> None:
    levels = sorted({one.level for one in mine}, reverse=True)
    axes.axvline(0, color=INK, linewidth=1.0)
    for place, level in enumerate(levels):
        colour = SERIES_COLOURS[(place + 1) % len(SERIES_COLOURS)]
        marker = _MARKERS[place % len(_MARKERS)]
        lower = 0.7 * (place / max(len(levels) - 1, 1) - 0.5)
        at = [one for one in mine if one.level == level]
        for one in at:
            axes.errorbar(
                [100 * one.harm],
                [measures.index(one.measure) + lower],
                xerr=[0.0 if math.isnan(one.half) else 100 * one.half],
                color=colour,
                marker=marker,
                markersize=4.0,
                markerfacecolor=colour if one.shown else "white",
                elinewidth=1.0,
            )
        axes.plot(
            [], [], color=colour, marker=marker, linestyle="", label=level_text(at[0].method, level)
        )
    axes.set_ylim(len(measures) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=3, columnspacing=0.8)
