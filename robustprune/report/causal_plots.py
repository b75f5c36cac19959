"""The figures of a report on a causal language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from robustprune.report.causal_records import CausalRecord, Figure, NetworkRecord
from robustprune.report.panels import legend_below, wrap
from robustprune.report.style import INK, Look, Plot, canvas, finish, looks


def perplexity_plots(record: CausalRecord) -> list[Plot]:
    """Plot perplexity against what is pruned: lines over the shares, and rows for N:M patterns."""
    look = looks(("dense", *record.methods))
    shares = [level for level in record.levels if level.endswith("%")]
    plots = [_over_shares(record, shares, look)] if len(shares) > 1 else []
    others = [level for level in record.levels if level not in shares or len(shares) == 1]
    return [*plots, *(_at_level(record, level, look) for level in others)]


def layer_plots(record: CausalRecord) -> list[Plot]:
    """Plot what is pruned of each layer, for each level where methods allot it differently."""

    def read(network: NetworkRecord) -> dict[str, float]:
        return {layer.name: 100 * (1 - layer.density) for layer in network.layers}

    found = []
    for level in record.levels:
        networks = [one for one in record.networks if one.level == level]
        uneven = [one for one in networks if len({round(v, 1) for v in read(one).values()}) > 2]
        if uneven:
            title = f"pruned weights of each layer (%), {level}"
            found.append(_by_layer(record, uneven, read, f"layer-sparsity-{_key(level)}", title))
    return found


def error_plots(record: CausalRecord) -> list[Plot]:
    """Plot the relative error of each layer, for each level."""
    found = []
    for level in record.levels:
        networks = [one for one in record.networks if one.level == level and one.errors]
        if networks:
            title = f"relative error of a layer's outputs (%), {level}"
            key = f"layer-errors-{_key(level)}"
            found.append(_by_layer(record, networks, _errors, key, title))
    return found


def _errors(network: NetworkRecord) -> dict[str, float]:
    return {name: 100 * error for name, error in network.errors.items()}


def _key(level: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in level).strip("-")


def _over_shares(record: CausalRecord, shares: Sequence[str], look: Mapping[str, Look]) -> Plot:
    series = {}
    for method in record.methods:
        found = [one for level in shares if (one := record.at(method, level)) is not None]
        series[method] = {float((one.level or "")[:-1]): one.perplexity for one in found}
    alt = f"Perplexity by method: {_said(record)}."
    return over_shares(series, record.dense.perplexity, look, key="perplexity", alt=alt)


def over_shares(
    series: Mapping[str, Mapping[float, Figure]],
    dense: Figure,
    look: Mapping[str, Look],
    *,
    key: str,
    alt: str,
) -> Plot:
    """Plot perplexity against the share of pruned weights, a line for each of `series`.

    Args:
        series: by name, perplexities with their bars by pruned weights in percent. Where one is not
            finite, the line has a gap.
        dense: the perplexity of the dense network.
    """
    with canvas(width=5.2, height=3.4 + _legend(list(series))) as (figure, axes):
        axes.axhline(dense.value, color=INK, linewidth=1.2, linestyle=":", label="dense")
        for place, (name, found) in enumerate(series.items()):
            shift = 0.4 * (place - (len(series) - 1) / 2)  # separates bars of one share
            drawn = {share: one for share, one in found.items() if math.isfinite(one.high)}
            if drawn:
                places = [share + shift for share in drawn]
                _bars(axes, places, list(drawn.values()), look[name], name)
        shares = sorted({share for found in series.values() for share in found})
        axes.set_xlabel("pruned weights (%)")
        axes.set_xticks(shares, [f"{share:g}%" for share in shares])
        _logarithmic(axes)
        axes.set_title("perplexity (logarithmic)")
        legend_below(figure, axes)
        return finish(figure, key=key, alt=alt)


def _at_level(record: CausalRecord, level: str, look: Mapping[str, Look]) -> Plot:
    """Plot the methods at one level as rows, the best one at the top."""
    found = [
        one for one in record.networks if one.level == level and math.isfinite(one.perplexity.high)
    ]
    found.sort(key=lambda one: one.perplexity.value)
    with canvas(width=5.2, height=1.5 + 0.32 * len(found)) as (figure, axes):
        for row, one in enumerate(found):
            seen = one.perplexity
            axes.errorbar(
                [seen.value],
                [row],
                xerr=[[seen.value - seen.low], [seen.high - seen.value]],
                capsize=2.5,
                elinewidth=1.2,
                color=look[one.method].colour,
                marker=look[one.method].marker,
            )
        axes.axvline(record.dense.perplexity.value, color=INK, linewidth=1.0, linestyle=":")
        axes.set_yticks(range(len(found)), [one.method for one in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(_ticks([record.dense.perplexity, *(one.perplexity for one in found)]))
        axes.set_xlabel("perplexity (logarithmic); dotted: dense")
        figure.suptitle(f"{level} pruned", x=0.01, ha="left", fontsize=10.5)
        said = "; ".join(f"{one.method} {one.perplexity.value:.4g}" for one in found)
        return finish(
            figure, key=f"perplexity-{_key(level)}", alt=f"Perplexity at {level}: {said}."
        )


def _bars(
    axes: Axes, places: Sequence[float], seen: Sequence[Figure], look: Look, label: str
) -> None:
    axes.errorbar(
        places,
        [one.value for one in seen],
        yerr=[[one.value - one.low for one in seen], [one.high - one.value for one in seen]],
        label=wrap(label),
        elinewidth=1.0,
        capsize=2.5,
        **look.line(),
    )


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_yticks(_ticks([Figure(low, low, low), Figure(high, high, high)]))


def _ticks(seen: Sequence[Figure]) -> list[float]:
    """Return 1, 2, 5, 10, ... from the lowest to the highest value, at most about eight."""
    low, high = min(one.low for one in seen), max(one.high for one in seen)
    steps = (1, 2, 5) if high / max(low, 1e-9) < 300 else (1, 3) if high / low < 1e4 else (1,)
    first, last = math.floor(math.log10(max(low, 1e-9))), math.ceil(math.log10(max(high, 1e-9)))
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [value for value in values if low / 1.3 <= value <= high * 1.3]


def _by_layer(
    record: CausalRecord,
    networks: Sequence[NetworkRecord],
    read: Callable[[NetworkRecord], Mapping[str, float]],
    key: str,
    title: str,
) -> Plot:
    look = looks(("dense", *record.methods))
    layers = list(dict.fromkeys(name for one in networks for name in read(one)))
    with canvas(width=5.2, height=2.9 + _legend([one.method for one in networks])) as (
        figure,
        axes,
    ):
        for one in networks:
            values = read(one)
            axes.plot(
                [layers.index(name) + 1 for name in values],
                list(values.values()),
                label=wrap(one.method),
                **look[one.method].line(),
            )
        axes.set_xlabel("layer, in the order of the network")
        axes.set_ylim(bottom=0)
        axes.set_title(title)
        legend_below(figure, axes)
        said = "; ".join(
            f"{one.method} from {min(read(one).values()):.3g} to {max(read(one).values()):.3g}"
            for one in networks
        )
        return finish(figure, key=key, alt=f"{title}, by layer: {said}.")


def _legend(labels: Sequence[str]) -> float:
    """Return the height of the legend in inches."""
    columns = 2 if max(map(len, labels), default=0) <= 26 else 1
    return 0.2 * (len(labels) + 1) / columns


def _said(record: CausalRecord) -> str:
    return "; ".join(f"{one.title} {one.perplexity.value:.4g}" for one in record.networks)
