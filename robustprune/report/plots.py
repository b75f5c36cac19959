"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from robustprune.measure.statistics import Proportion, proportion
from robustprune.report.panels import (
    density_key,
    groups,
    legend_below,
    legend_height,
    looks_of,
    suffix,
    titled,
    wrap,
)
from robustprune.report.records import (
    LayerRecord,
    MetricsRecord,
    ModelRecord,
    ThreatRecord,
)
from robustprune.report.style import FAINT, INK, SERIES_COLOURS, Look, Plot, canvas, finish
from robustprune.report.wording import count, norm_name, share
from robustprune.sparsity import LayerDensity

_ZOOM = 4.0  # a curve beyond this many times the chosen eps is also shown close up


def accuracy_vs_eps(metrics: MetricsRecord) -> list[Plot]:
    """Plot accuracy under attack against the size of the perturbation, a line for each network."""
    plots = []
    for density, models in groups([model for model in metrics.models if model.curve]):
        furthest = max((point.eps for model in models for point in model.curve), default=0.0)
        plots.append(_eps_plot(metrics, models, density=density, limit=None))
        if furthest > _ZOOM * metrics.threat.eps > 0:
            limit = 2 * metrics.threat.eps
            plots.append(_eps_plot(metrics, models, density=density, limit=limit))
    return plots


def layer_density(metrics: MetricsRecord) -> list[Plot]:
    """Plot the kept fraction of each layer. Networks with the same densities share a figure."""
    shared: dict[tuple[object, ...], list[ModelRecord]] = {}
    for model in metrics.models:
        if not model.is_dense and model.layers:
            shared.setdefault(model.layers, []).append(model)
    return [_layers_of(models) for models in shared.values()]


def density_tradeoff(metrics: MetricsRecord) -> list[Plot]:
    """Plot accuracy against density with 95% intervals, if there are two densities or more."""
    sparse = [model for model in metrics.models if not model.is_dense]
    if len({density_key(model) for model in sparse}) < 2:
        return []
    panels: tuple[tuple[str, str, Callable[[ModelRecord], Proportion]], ...] = (
        ("robust", "worst-case attacked accuracy (%)", lambda model: model.worst),
        ("clean", "clean accuracy (%)", lambda model: model.clean),
    )
    return [_density_plot(metrics, key=key, label=label, read=read) for key, label, read in panels]


def _eps_plot(
    metrics: MetricsRecord, models: Sequence[ModelRecord], *, density: str, limit: float | None
) -> Plot:
    look = looks_of(metrics)
    threat = metrics.threat
    with canvas(width=5.2, height=3.5 + legend_height(models)) as (figure, axes):
        for model in models:
            _eps_line(axes, model, look[model.family], strong=model.name == metrics.headline)
        axes.axvline(threat.eps, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        axes.annotate(
            f"chosen ε = {threat.eps:g}",
            (threat.eps, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )
        axes.set_xlabel(f"perturbation ε, {norm_name(threat.norm)} ({threat.unit})")
        axes.set_ylabel("accuracy under attack (%),\nupper bound (attack)")
        axes.set_ylim(-2, 104)
        axes.set_xlim(0, limit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        span = "close to the chosen ε" if limit else "the whole range of ε"
        axes.set_title(titled(span, density))
        legend_below(figure, axes)
        key = f"accuracy-vs-eps{suffix(density)}{'-near' if limit else ''}"
        return finish(figure, key=key, alt=_eps_alt(models, threat))


def _eps_line(axes: Axes, model: ModelRecord, look: Look, *, strong: bool) -> None:
    eps = [point.eps for point in model.curve]
    axes.plot(
        eps,
        [100 * point.value for point in model.curve],
        label=wrap(model.title),
        linewidth=2.6 if strong else 1.8,
        zorder=4 if strong else 3,
        **look.line(),
    )
    if strong:  # one band shows how wide they all are; five would hide the lines
        bands = [proportion(round(point.value * point.n), point.n) for point in model.curve]
        axes.fill_between(
            eps,
            [100 * band.ci95[0] for band in bands],
            [100 * band.ci95[1] for band in bands],
            color=look.colour,
            alpha=0.14,
            linewidth=0,
        )


def _eps_alt(models: Sequence[ModelRecord], threat: ThreatRecord) -> str:
    ends = [
        f"{model.title} falls to {100 * model.curve[-1].value:.1f}% at {model.curve[-1].eps:g}"
        for model in models
    ]
    return (
        f"Accuracy under attack against eps, chosen eps {threat.eps:g} marked: {'; '.join(ends)}."
    )


def _layers_of(models: Sequence[ModelRecord]) -> Plot:
    first, others = models[0], len(models) - 1
    shared = f" (same in {others} more)" if others else ""
    return layer_plot(first.layers, key=first.name, title=first.title, note=shared)


def layer_plot(
    layers: Sequence[LayerRecord | LayerDensity], *, key: str, title: str, note: str = ""
) -> Plot:
    """Plot the kept fraction of each layer of one network as bars."""
    with canvas(width=5.2, height=1.2 + 0.27 * len(layers)) as (figure, axes):
        rows = range(len(layers))
        axes.barh(rows, [1.0] * len(layers), color=FAINT, height=0.72)
        axes.barh(rows, [layer.density for layer in layers], color=SERIES_COLOURS[1], height=0.72)
        for row, layer in enumerate(layers):
            axes.text(
                1.02, row, f"{count(layer.kept)} / {count(layer.total)}", va="center", fontsize=8.5
            )
        axes.set_yticks(rows, [_tail(layer.name) for layer in layers])
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1)
        axes.set_xlabel("kept fraction of the layer (right: kept / total)")
        figure.suptitle(wrap(title + note, width=70), x=0.01, ha="left", fontsize=10)
        axes.tick_params(axis="y", length=0)
        named = "; ".join(f"{layer.name} {layer.density:.3g}" for layer in layers)
        return finish(
            figure,
            key=f"layer-density-{key}",
            alt=f"Kept fraction by layer of {title}: {named}.",
        )


def _density_plot(
    metrics: MetricsRecord, *, key: str, label: str, read: Callable[[ModelRecord], Proportion]
) -> Plot:
    look = looks_of(metrics)
    sparse = [model for model in metrics.models if not model.is_dense]
    families = list(dict.fromkeys(model.family for model in sparse))
    dense = [model for model in metrics.models if model.is_dense]
    with canvas(width=5.2, height=3.4 + legend_height([*dense, *sparse[: len(families)]])) as (
        figure,
        axes,
    ):
        for model in dense:
            style = {**look[model.family].line(), "marker": ""}
            axes.axhline(100 * read(model).value, label=wrap(model.title), **style)
        for place, family in enumerate(families):
            members = sorted((m for m in sparse if m.family == family), key=lambda m: m.density)
            # A small shift to the side separates the bars of one density.
            shift = 1.03 ** (place - (len(families) - 1) / 2)
            measured = [read(model) for model in members]
            axes.errorbar(
                [model.density * shift for model in members],
                [100 * one.value for one in measured],
                yerr=[
                    [100 * (one.value - one.ci95[0]) for one in measured],
                    [100 * (one.ci95[1] - one.value) for one in measured],
                ],
                label=family,
                elinewidth=1.0,
                capsize=2.5,
                **look[family].line(),
            )
        densities = sorted({model.density for model in sparse})
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(densities))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: share(density)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("weights kept (logarithmic)")
        axes.set_title(label)
        legend_below(figure, axes)
        points = "; ".join(f"{m.title} {100 * read(m).value:.1f}%" for m in metrics.models)
        return finish(figure, key=f"density-{key}", alt=f"{label} by density: {points}.")


def _tail(name: str, *, width: int = 30) -> str:
    """Return the end of a long layer name, which distinguishes the layers."""
    return name if len(name) <= width else f"…{name[1 - width :]}"
