"""The report's part on certificates, with lower bounds beside the upper bounds of attacks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.ticker import MaxNLocator

from robustprune.certify import Certificate, Manifest, robust_accuracy_interval
from robustprune.report.style import FAINT, INK, PAPER, SERIES_COLOURS, Plot, canvas, finish
from robustprune.report.wording import norm_name, percent

Certificates = tuple[Manifest, tuple[Certificate, ...]]


@dataclass(frozen=True)
class CertificateRow:
    """The certificates of one method, as text."""

    method: str
    speaks_of: str
    confidence: str
    n: str
    radius: str
    attacked: str
    accuracy: str


def certificate_rows(found: Certificates | None) -> list[CertificateRow]:
    """Return a row for each method, or no rows if the run has no certificates."""
    if found is None:
        return []
    manifest, certificates = found
    methods = dict.fromkeys(certificate.method for certificate in certificates)
    return [_row(manifest, [c for c in certificates if c.method == m]) for m in methods]


def sandwich(found: Certificates | None) -> list[Plot]:
    """Plot the certified radius and the attacked distance of each example, sorted by the latter."""
    return [] if found is None else [_sandwich_plot(found[0], proofs) for proofs in _proofs(found)]


def certified_curves(found: Certificates | None) -> list[Plot]:
    """Plot the shares of examples that are certified beyond ε, and not broken within it, over ε."""
    return [] if found is None else [_curve_plot(found[0], proofs) for proofs in _proofs(found)]


def _proofs(found: Certificates) -> list[list[Certificate]]:
    """Return the certificates of the network itself, a list for each method."""
    base = [c for c in found[1] if c.guarantee == "base"]
    return [[c for c in base if c.method == m] for m in dict.fromkeys(c.method for c in base)]


def _row(manifest: Manifest, certificates: Sequence[Certificate]) -> CertificateRow:
    first = certificates[0]
    lower = [certificate.radius for certificate in certificates]
    in_words = first.norm == "words"
    shown = {
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
    span = robust_accuracy_interval(torch.tensor(lower), torch.tensor(upper), manifest.eps)
    median = statistics.median(upper)
    return CertificateRow(
        **shown,
        speaks_of="the network",
        attacked="none found" if math.isinf(median) else f"{median:.4g}",
        accuracy=f"[{percent(span.certified)}, {percent(span.attacked)}] at ε = {span.eps:g}",
    )


def _attacked(certificates: Sequence[Certificate]) -> list[float]:
    return [math.inf if c.attack_radius is None else c.attack_radius for c in certificates]


def _curve_plot(manifest: Manifest, certificates: Sequence[Certificate]) -> Plot:
    method, n = certificates[0].method, len(certificates)
    lower, upper = [c.radius for c in certificates], _attacked(certificates)
    # as far as something is certified, or a little beyond the threat model's ε
    end = 1.25 * max(manifest.eps, *lower)
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
        axes.set_title(f"Robust accuracy lies in the shaded band (dotted: ε = {manifest.eps:g})")
        figure.legend(loc="outside lower left", ncols=1)
        span = robust_accuracy_interval(torch.tensor(lower), torch.tensor(upper), manifest.eps)
        alt = (
            f"Share of {n} test examples certified by {method} beyond each ε, and of those that no "
            f"attack broke within it: {percent(span.certified)}% and {percent(span.attacked)}% at "
            f"ε = {manifest.eps:g}."
        )
        return finish(figure, key=f"certified-{method}", alt=alt)


def _shares_beyond(values: Sequence[float], end: float) -> tuple[list[float], list[float]]:
    """Return where the share of values above ε changes, and the shares in %, from 0 to ``end``."""
    places = [0.0, *sorted({v for v in values if 0 < v < end}), end]
    return places, [100 * sum(v > eps for v in values) / len(values) for eps in places]


def _sandwich_plot(manifest: Manifest, certificates: Sequence[Certificate]) -> Plot:
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
        axes.set_title(f"r* lies between the marks (dotted: ε = {manifest.eps:g})")
        figure.legend(loc="outside lower left", ncols=1)
        alt = (
            f"Certified radius by {method} and distance of the nearest adversarial example found, "
            f"for each of {len(order)} test examples."
        )
        return finish(figure, key=f"sandwich-{method}", alt=alt)
