"""Write the report of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from robustprune.measure.statistics import INTERVAL_METHOD
from robustprune.report import summary, wording
from robustprune.report.causal import read_causal
from robustprune.report.causal_records import is_causal
from robustprune.report.certificates import certificate_rows, certified_curves, claimed, sandwich
from robustprune.report.collect import collect
from robustprune.report.cost_table import cost_table
from robustprune.report.fields import parse_json, read_text
from robustprune.report.fill import render_html, render_markdown
from robustprune.report.layer_errors import layer_errors
from robustprune.report.paired import paired_rows
from robustprune.report.pictured import pictured, pictured_caption
from robustprune.report.plots import (
    accuracy_vs_eps,
    density_tradeoff,
    layer_density,
)
from robustprune.report.records import WORST, MetricsRecord, RunRecord, SwitchRecord
from robustprune.report.selection import score_figures, wave_figures
from robustprune.report.style import Plot, inline, page_colours
from robustprune.report.table import main_table
from robustprune.report.terms import attack_meaning, terms
from robustprune.report.text_attacks import attack_diffs, broken_sentence, text_attack_rows
from robustprune.report.training import search_figures, training_curves
from robustprune.run.checkpoint import write_atomically

_SWITCH_ROWS = {
    "adaptive": "attack on the expected logits of all tickets (adaptive)",
    "eot": "expectation over transformation, EOT (adaptive)",
    WORST: "the lower of these two, per example (adaptive)",
    "independent": "independent sampling, as published (not adaptive, not comparable)",
}


@dataclass(frozen=True)
class Illustration:
    """Plots that belong together, with a caption and the number of plots in a row. The anchor is
    where the table of contents leads."""

    title: str
    caption: str
    columns: int
    plots: tuple[Plot, ...]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


@dataclass(frozen=True)
class SwitchRow:
    """One figure of the switch; `standing` says how it may be used."""

    label: str
    value: str
    interval: str
    n: str
    standing: str


def write_report(run_dir: Path) -> tuple[Path, Path]:
    """Write report.html, report.md and plots/*.svg into a run directory; return the first two.

    Each file is written under a temporary name and then renamed.

    Raises:
        ValueError: a file of the run is missing, unreadable or malformed.
        OSError: the directory can't be written to.
    """
    context, plots, template = _content(run_dir)
    html = render_html(f"{template}.html.j2", context)
    markdown = render_markdown(f"{template}.md.j2", context)
    (run_dir / "plots").mkdir(exist_ok=True)
    for plot in plots:
        write_atomically(run_dir / "plots" / f"{plot.key}.svg", plot.svg)
    pages = run_dir / "report.html", run_dir / "report.md"
    for path, text in zip(pages, (html, markdown), strict=True):
        write_atomically(path, text)
    return pages


def _content(run_dir: Path) -> tuple[dict[str, object], list[Plot], str]:
    """Return what a report shows, its plots, and the name of its templates."""
    path = run_dir / "metrics.json"
    if is_causal(parse_json(read_text(path), source=str(path)).mapping()):
        context, plots = read_causal(run_dir)
        return context, plots, "causal"
    run = collect(run_dir)
    illustrations = _illustrations(run)
    first = Illustration("What the attack does", pictured_caption(run), 3, tuple(pictured(run)))
    plots = [plot for one in (first, *illustrations) for plot in one.plots]
    return _context(run, illustrations, first), plots, "report"


def _context(
    run: RunRecord, illustrations: list[Illustration], first: Illustration
) -> dict[str, object]:
    metrics, paired = run.metrics, summary.against_dense(run)
    return {
        "metrics": metrics,
        "first": first,
        "broken_sentence": broken_sentence(run.texts),
        "summary": summary.lines(
            metrics, commonest_share=run.commonest_share, paired=paired, constant=run.constant
        ),
        "checks": summary.checks(metrics),
        "checks_failed": bool(summary.failed_checks(metrics)),
        "terms": terms(metrics),
        "meaning": attack_meaning,
        "paired_rows": paired_rows(run),
        "figures": summary.figures(metrics, paired=paired),
        "table": main_table(metrics, constant=run.constant),
        "text_rows": text_attack_rows(
            metrics.text, {model.name: model.title for model in metrics.models}, metrics.headline
        ),
        "text_diffs": attack_diffs(run.texts),
        "costs": cost_table(run.costs),
        "certificates": certificate_rows(metrics, run.certificates),
        "claims": claimed(run.certificates),
        "switch_densities": _switch_densities(metrics.switch),
        "switch_rows": _switch_rows(metrics.switch),
        "illustrations": illustrations,
        "findings": sorted(metrics.findings, key=lambda finding: finding.ok),
        "interval_method": INTERVAL_METHOD,
        "commonest": wording.percent(run.commonest_share),
        "config": run.config,
        "environment": run.environment,
        "command": f"robustprune run config.yaml --seed {metrics.seed}",
        "inline": inline,
        "page_colours": page_colours(),
        "say": wording,
    }


def _illustrations(run: RunRecord) -> list[Illustration]:
    metrics = run.metrics
    candidates = [
        Illustration(
            "Certified and attacked, as ε grows and example by example",
            "The robust accuracy lies between the curves: within ε, the lower share keeps its right"
            " answer whatever is done (a proof), and attacks changed all but the upper one. For"
            " each example, r* lies between the marks: nothing nearer than the lower one changes"
            " the answer, and at the upper one an attack did. Where they lie far apart, the bounds"
            " are loose, not the network weak.",
            2,
            (
                *certified_curves(metrics, run.certificates),
                *sandwich(metrics, run.certificates),
            ),
        ),
        Illustration(
            "Accuracy as the perturbation grows",
            _curve_caption(metrics),
            2,
            tuple(accuracy_vs_eps(metrics)),
        ),
        Illustration(
            "Density against accuracy",
            "Bars are 95% intervals; the horizontal lines are the dense networks. Points of one"
            " density stand slightly apart only so that their bars can be told apart.",
            2,
            tuple(density_tradeoff(metrics)),
        ),
        Illustration(
            "What is kept of each layer",
            "The filled part of a bar is the fraction of the layer's weights that the mask keeps.",
            2,
            tuple(layer_density(metrics)),
        ),
        Illustration(
            "How far each layer is from its target",
            "Of searches that go layer by layer without training: the squared distance of a layer's"
            " outputs from those that it should give, as a share of the squared size of these.",
            2,
            tuple(layer_errors(run)),
        ),
        Illustration(
            "What adversarial examples were worth",
            "The values of the last selection, of the dense network and of the headline (those of"
            " every other training are in its selection.safetensors). Left, from the best candidate"
            " to the worst; right, how many have which value.",
            2,
            tuple(score_figures(run)),
        ),
        Illustration(
            "The best and the worst adversarial examples",
            "Candidates of the last selection over the clean series that they were made of, in grey"
            " (of several channels, the one that was changed most). The best were worth most to the"
            " training, by the method of the config.",
            3,
            tuple(wave_figures(run)),
        ),
        Illustration(
            "Training",
            "Figures of the training batches (and of the validation split, where there is one):"
            " they show how the training went, not how the network does on the test set.",
            3,
            tuple(training_curves(run)),
        ),
        Illustration(
            "How the search went",
            "What the searches record of themselves. Of ADMM, at each update: the primal residual"
            " ‖W − Z‖/‖W‖, how far the weights still are from the sparsity set, and the dual"
            " residual, how much that set's nearest point still moves; both must fall. Of HARP:"
            " the share kept as a multiple of the target.",
            3,
            tuple(search_figures(run)),
        ),
    ]
    return [candidate for candidate in candidates if candidate.plots]


def _curve_caption(metrics: MetricsRecord) -> str:
    reading = (
        "Each line is an upper bound (attack): the true robust accuracy lies on it or below it."
        " The band is the 95% interval of the headline network, the dotted line the chosen ε."
    )
    unfinished = [m.title for m in metrics.models if m.curve and not m.reaches_zero]
    if unfinished:
        return (
            f"{reading} Not followed down to zero: {wording.listing(unfinished)}. A curve that"
            " stays above zero at a large ε is a sign that the attack fails, not that the network"
            " is robust."
        )
    return f"{reading} Every line reaches zero, as it must when the attack works."


def _switch_densities(switch: SwitchRecord | None) -> str:
    return wording.listing([f"{density:.3g}" for density in switch.densities]) if switch else ""


def _switch_rows(switch: SwitchRecord | None) -> list[SwitchRow]:
    if switch is None:
        return []
    names = [switch.headline, *(name for name in _SWITCH_ROWS if name != switch.headline)]
    standings = dict.fromkeys(names, "upper bound on robustness")
    standings[WORST] = "upper bound on robustness, the tighter of the two"
    standings["independent"] = (
        "not comparable: the attacker does not know that the tickets are switched"
        if switch.attacked["independent"].value >= switch.attacked[switch.headline].value
        else "below the headline: the adaptive attack was not strong enough here"
    )
    standings[switch.headline] = "headline: upper bound on robustness"
    measured = {"clean": switch.clean, **switch.attacked}
    return [
        SwitchRow(
            label=_SWITCH_ROWS.get(name, "clean, no attack"),
            value=wording.percent(measured[name].value),
            interval=wording.interval(measured[name]),
            n=wording.count(measured[name].n),
            standing=standings.get(name, ""),
        )
        for name in ("clean", *names)
    ]
