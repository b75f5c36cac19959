"""The report's part on certificates, with lower bounds beside the upper bounds of attacks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.ticker import MaxNLocator

from robustprune.certify import (
    AccuracyInterval,
    Certificate,
    Manifest,
    robust_accuracy_interval,
)
from robustprune.report.records import Certificates, MetricsRecord
from robustprune.report.style import FAINT, INK, PAPER, SERIES_COLOURS, Plot, canvas, finish
from robustprune.report.wording import norm_name, percent


@dataclass(frozen=True)
class CertificateRow:
    """The certificates of one network by one method, as text."""

    network: str
    method: str
    speaks_of: str
    confidence: str
    n: str
    radius: str
    attacked: str
    accuracy: str


def certificate_rows(
    metrics: MetricsRecord, found: Mapping[str, Certificates]
) -> list[CertificateRow]:
    """Return a row for each network and method, or no rows if the run has no certificates."""
    return [
        _row(_title(metrics, name), manifest, group)
        for name, (manifest, certificates) in found.items()
        for group in _by_method(certificates)
    ]


def claimed(found: Mapping[str, Certificates]) -> dict[str, object]:
    """Return the number of certified examples, the files, and the sentences of all manifests that
    say what is not claimed."""
    manifests = [manifest for manifest, _ in found.values()]
    return {
        "n": max((manifest.n for manifest in manifests), default=0),
        "others": list(found)[1:],
        "limits": dict.fromkeys(limit for manifest in manifests for limit in manifest.limits),
    }


def sandwich(metrics: MetricsRecord, found: Mapping[str, Certificates]) -> list[Plot]:
    """Plot the certified radius and the attacked distance of each example, sorted by the latter."""
    return [
        _sandwich_plot(proofs, manifest, _named(metrics, name), f"sandwich-{key}")
        for name, key, manifest, proofs in _proofs(metrics, found)
    ]


def certified_curves(metrics: MetricsRecord, found: Mapping[str, Certificates]) -> list[Plot]:
    """Plot the shares of examples that are certified beyond ε, and not broken within it, over ε.

    All plots have the same axes, so that networks can be compared.
    """
    parts = _proofs(metrics, found)
    # as far as something is certified, or a little beyond the threat model's ε
    reach = [manifest.eps for _, _, manifest, _ in parts]
    reach += [proof.radius for *_, proofs in parts for proof in proofs]
    return [
        _curve_plot(proofs, manifest, _named(metrics, name), f"certified-{key}", 1.25 * max(reach))
        for name, key, manifest, proofs in parts
    ]


def _proofs(
    metrics: MetricsRecord, found: Mapping[str, Certificates]
) -> list[tuple[str, str, Manifest, list[Certificate]]]:
    """Return each network with each method of proofs about it: its name, the key of its plots, the
    manifest and the certificates."""
    return [
        (
            name,
            group[0].method + ("" if name == metrics.headline else f"-{name}"),
            manifest,
            group,
        )
        for name, (manifest, certificates) in found.items()
        for group in _by_method(certificates)
        if group[0].guarantee == "base"
    ]


def _by_method(certificates: Sequence[Certificate]) -> list[list[Certificate]]:
    methods = dict.fromkeys(certificate.method for certificate in certificates)
    return [[c for c in certificates if c.method == method] for method in methods]


def _title(metrics: MetricsRecord, name: str) -> str:
    return next((model.title for model in metrics.models if model.name == name), name)


def _named(metrics: MetricsRecord, name: str) -> str:
    """Return the network as the beginning of a plot's title; nothing for the headline model."""
    return "" if name == metrics.headline else f"{_title(metrics, name)}: "


def _row(title: str, manifest: Manifest, certificates: Sequence[Certificate]) -> CertificateRow:
    first = certificates[0]
    lower = [certificate.radius for certificate in certificates]
    in_words = first.norm == "words"
    shown = {
        "network": title,
        "method": first.method,
        "confidence": "proof" if first.confidence == 1 else f"{100 * first.confidence:g}%",
        "n": str(len(certificates)),
        "radius": f"all words (groups ≤ {first.settings['most']:g})"
        if in_words
        else f"{statistics.median(lower):.4g} ({norm_name(first.norm)})",
    }
    if first.guarantee == "smoothed":
        abstained = sum(certificate.prediction is None for certificate in certificates)
        held = [c.covers_all_words if in_words else c.radius > 0 for c in certificates]
        right = sum(held) / len(lower)
        when = "whatever words are replaced" if in_words else "without attack"
        return CertificateRow(
            **shown,
            speaks_of="the smoothed classifier",
            attacked="–",
            accuracy=f"≥ {percent(right)} {when} ({abstained} abstained)",
        )
    upper = _attacked(certificates)
    span = _interval(lower, upper, manifest.eps)
    median = statistics.median(upper)
    return CertificateRow(
        **shown,
        speaks_of="the network",
        attacked="none found" if math.isinf(median) else f"{median:.4g}",
        accuracy=f"[{percent(span.certified)}, {percent(span.attacked)}] at ε = {span.eps:g}",
    )


def _interval(lower: Sequence[float], upper: Sequence[float], eps: float) -> AccuracyInterval:
    """Return the bounds of robust accuracy. In float32, a distance of exactly 0.1 is beyond 0.1."""
    lows, highs = (torch.tensor(bounds, dtype=torch.float64) for bounds in (lower, upper))
    return robust_accuracy_interval(lows, highs, eps)


def _attacked(certificates: Sequence[Certificate]) -> list[float]:
    return [math.inf if c.attack_radius is None else c.attack_radius for c in certificates]


def _curve_plot(
    certificates: Sequence[Certificate], manifest: Manifest, network: str, key: str, end: float
) -> Plot:
    method, n = certificates[0].method, len(certificates)
    lower, upper = [c.radius for c in certificates], _attacked(certificates)
    with canvas(width=5.2, height=3.3) as (figure, axes):
        curves = [_shares_beyond(values, end) for values in (upper, lower)]
        labels = "not broken by attacks (upper bound)", f"certified by {method} (lower bound)"
        for (eps, shares), label, number in zip(curves, labels, (2, 1), strict=True):
            colour = SERIES_COLOURS[number]
            axes.step(eps, shares, where="post", color=colour, label=label)
        for (eps, shares), colour in zip(curves, (FAINT, PAPER), strict=True):
            axes.fill_between(eps, shares, step="post", color=colour, linewidth=0, zorder=0.5)
        axes.axvline(manifest.eps, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        axes.set_xlim(0, end)
        axes.set_ylim(0, 101)
        axes.set_xlabel(f"ε, {norm_name(certificates[0].norm)}")
        axes.set_ylabel("robust accuracy in %")
        title = f"robust accuracy lies in the band (dotted: ε = {manifest.eps:g})"
        axes.set_title(_headed(network, title))
        figure.legend(loc="outside lower left", ncols=1)
        span = _interval(lower, upper, manifest.eps)
        alt = (
            f"{network}share of {n} test examples certified by {method} beyond each ε, and of "
            f"those that no attack broke within it: {percent(span.certified)}% and "
            f"{percent(span.attacked)}% at ε = {manifest.eps:g}."
        )
        return finish(figure, key=key, alt=_sentence(alt))


def _sentence(text: str) -> str:
    return text if text.startswith("r*") else text[:1].upper() + text[1:]


def _headed(network: str, title: str) -> str:
    """Return a plot's title, on two lines if it names a network."""
    return _sentence(f"{network.removesuffix(' ')}\n{title}" if network else title)


def _shares_beyond(values: Sequence[float], end: float) -> tuple[list[float], list[float]]:
    """Return where the share of values above ε changes, and the shares in %, from 0 to ``end``."""
    places = [0.0, *sorted({v for v in values if 0 < v < end}), end]
    return places, [100 * sum(v > eps for v in values) / len(values) for eps in places]


def _sandwich_plot(
    certificates: Sequence[Certificate], manifest: Manifest, network: str, key: str
) -> Plot:
    upper = _attacked(certificates)
    order = sorted(range(len(upper)), key=lambda i: (upper[i], certificates[i].radius))
    found = [(place, upper[i]) for place, i in enumerate(order) if math.isfinite(upper[i])]
    method = certificates[0].method
    with canvas(width=5.2, height=3.3) as (figure, axes):
        axes.vlines(
            [place for place, _ in found],
            [certificates[order[place]].radius for place, _ in found],
            [r for _, r in found],
            color=SERIES_COLOURS[0],
            linewidth=1.0,
            alpha=0.6,
        )
        axes.plot(
            [place for place, _ in found],
            [r for _, r in found],
            linestyle="",
            marker="v",
            color=SERIES_COLOURS[2],
            label="nearest adversarial example found (upper bound)",
        )
        axes.plot(
            range(len(order)),
            [certificates[i].radius for i in order],
            linestyle="",
            marker="^",
            color=SERIES_COLOURS[1],
            label=f"certified by {method} (lower bound)",
        )
        axes.axhline(manifest.eps, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        axes.set_xlabel(f"test example, by upper bound (n = {len(order)})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_ylabel(f"distance r, {norm_name(certificates[0].norm)}")
        axes.set_ylim(bottom=0)
        title = f"r* lies between the marks (dotted: ε = {manifest.eps:g})"
        axes.set_title(_headed(network, title))
        figure.legend(loc="outside lower left", ncols=1)
        alt = (
            f"{network}certified radius by {method} and distance of the nearest adversarial "
            f"example found, for each of {len(order)} test examples."
        )
        return finish(figure, key=key, alt=_sentence(alt))
