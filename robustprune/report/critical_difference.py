"""The critical difference diagram: methods by average rank; a bar joins those that don't differ."""

from __future__ import annotations

from matplotlib.ticker import MultipleLocator

from robustprune.measure import Ranking, groups
from robustprune.report.style import INK, SERIES_COLOURS, Plot, canvas, finish


def critical_difference(ranking: Ranking, *, key: str, title: str) -> Plot:
    """Plot average ranks on a line, the best on the left, after Demšar (JMLR 2006, Fig. 1).

    A bar joins methods whose ranks lie within Nemenyi's critical difference. With this number of
    blocks, the test does not show a difference between them.
    """
    names, ranks = list(ranking.ranks), list(ranking.ranks.values())
    joined = groups(ranking)
    lowest = len(names) + 0.6 * len(joined)
    with canvas(width=6.4, height=1.2 + 0.26 * lowest) as (figure, axes):
        for row, (name, rank) in enumerate(zip(names, ranks, strict=True)):
            depth = -0.6 * len(joined) - row - 1
            axes.plot([rank, rank], [0, depth], color=INK, linewidth=0.8)
            axes.plot([rank, len(names) + 0.2], [depth, depth], color=INK, linewidth=0.8)
            axes.text(len(names) + 0.3, depth, f"{name} ({rank:.2f})", va="center", fontsize=9)
        for row, group in enumerate(joined):
            ends = [ranking.ranks[group[0]] - 0.06, ranking.ranks[group[-1]] + 0.06]
            level = -0.6 * (row + 1)
            axes.plot(ends, [level, level], color=SERIES_COLOURS[2], linewidth=3.2)
        axes.set_xlim(0.9, len(names) + 0.1)
        axes.set_ylim(-lowest - 0.8, 0)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.spines["top"].set_visible(True)
        axes.xaxis.tick_top()
        axes.xaxis.set_major_locator(MultipleLocator(1))
        axes.set_xlabel(
            f"average rank over {ranking.blocks}, 1 is best; critical difference "
            f"{ranking.critical:.2f}, Friedman p = {ranking.p:.2g}",
            loc="left",
            fontsize=9,
        )
        axes.set_title(title)
        listed = ", ".join(f"{name} {rank:.2f}" for name, rank in ranking.ranks.items())
        bars = "; ".join(" to ".join((group[0], group[-1])) for group in joined) or "none"
        return finish(
            figure, key=key, alt=f"{title}. Average ranks: {listed}. Not told apart: {bars}."
        )
