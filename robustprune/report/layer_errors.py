"""The figure of layerwise pruning: how far the outputs of each layer are from their target."""

from __future__ import annotations

from collections.abc import Sequence

from robustprune.report.panels import groups, legend_below, legend_height, suffix, titled, wrap
from robustprune.report.records import ModelRecord, RunRecord
from robustprune.report.style import Plot, canvas, finish, looks


def layer_errors(run: RunRecord) -> list[Plot]:
    """Plot ‖Ŵ X̂ − T‖² / ‖T‖² of each layer in the order of the network, a line for each network."""
    plots = []
    for density, models in groups(run.metrics.models):
        errors = {model.name: found for model in models if (found := last_errors(run, model))}
        if errors:
            drawn = [model for model in models if model.name in errors]
            plots.append(_plot(run, drawn, errors, density))
    return plots


def last_errors(run: RunRecord, model: ModelRecord) -> dict[str, float]:
    """Return the relative error of each layer in the last walk; other searches have none."""
    found: dict[str, float] = {}
    for record in run.histories[model.name]:
        if record.layer is not None:
            found.pop(record.layer, None)  # so that the order is that of the last walk
            found[record.layer] = record.loss
    return found


def _plot(
    run: RunRecord,
    models: Sequence[ModelRecord],
    errors: dict[str, dict[str, float]],
    density: str,
) -> Plot:
    look = dict(looks([model.family for model in run.metrics.models]))
    layers = list(dict.fromkeys(layer for found in errors.values() for layer in found))
    with canvas(width=5.2, height=2.9 + legend_height(models)) as (figure, axes):
        for model in models:
            found = errors[model.name]
            axes.plot(
                [layers.index(layer) + 1 for layer in found],
                [100 * error for error in found.values()],
                label=wrap(model.title),
                **look[model.family].line(),
            )
        axes.set_xlabel("layer, in the order of the network")
        axes.set_xticks(range(1, len(layers) + 1))
        axes.set_ylim(bottom=0)
        axes.set_title(titled("relative error of a layer's outputs (%)", density))
        legend_below(figure, axes)
        said = "; ".join(
            f"{model.title}: "
            + ", ".join(f"{layer} {100 * e:.1f}%" for layer, e in errors[model.name].items())
            for model in models
        )
        return finish(
            figure, key=f"layer-errors{suffix(density)}", alt=f"Relative error by layer. {said}."
        )
