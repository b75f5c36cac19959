"""What all figures share: which networks are in one figure, its title and its legend."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustprune.report.records import MetricsRecord, ModelRecord
from robustprune.report.style import Look, looks


def groups(models: Sequence[ModelRecord]) -> list[tuple[str, list[ModelRecord]]]:
    """Return (density, networks) of each figure: the dense networks and one density's tickets.

    If there is only one density, there is one figure with all networks, and its density is "".
    """
    dense = [model for model in models if model.is_dense]
    by_density: dict[str, list[ModelRecord]] = {}
    for model in models:
        if not model.is_dense:
            by_density.setdefault(density_key(model), []).append(model)
    if len(by_density) < 2:
        return [("", list(models))] if models else []
    return [(key, [*dense, *members]) for key, members in by_density.items()]


def density_key(model: ModelRecord) -> str:
    return f"{model.density:.3g}"


def suffix(density: str) -> str:
    return f"-density-{density}" if density else ""


def titled(title: str, density: str) -> str:
    return f"{title}, density {density}" if density else title


def wrap(title: str, *, width: int = 52) -> str:
    return textwrap.fill(title, width, break_on_hyphens=False)


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if max(map(len, labels), default=0) <= 26 else 1


def legend_height(models: Sequence[ModelRecord]) -> float:
    """Return the height of the legend in inches, which is added to the height of the figure."""
    rows = sum(wrap(model.title).count("\n") + 1 for model in models)
    return 0.2 * rows / _legend_columns([model.title for model in models])


def legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=_legend_columns(labels),
        handlelength=3.4,
    )


def looks_of(metrics: MetricsRecord) -> dict[str, Look]:
    """Return the look of each family of networks, which is the same in all figures of a report."""
    return dict(looks([model.family for model in metrics.models]))
