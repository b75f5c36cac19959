"""Prune a causal language model by each method at each level, measure, and write the report.

Nothing is trained. Every network is a folder of Hugging Face's transformers in the run directory,
with its masks beside it.
"""

from __future__ import annotations

from typing import Any

from robustprune.pipeline.causal_measure import measured
from robustprune.pipeline.causal_metrics import entry_of, metrics_of
from robustprune.pipeline.causal_prune import pruned
from robustprune.pipeline.causal_run import DENSE, CausalRun, Pruned, searches_of
from robustprune.pipeline.trust_causal import trust_language
from robustprune.pipeline.trust_page import Asked
from robustprune.report import write_report


def prune_causal(run: CausalRun) -> dict[str, Any]:
    """Run the config of a causal language model.

    Each network is stored when it is found, and measured after that; both are skipped where their
    files are there, and a walk over layers goes on behind its last one.

    Returns:
        The content of metrics.json.

    Raises:
        ValueError: another process uses the run directory, or a file there is damaged.
    """
    with run.folder.alone():
        whole = Pruned(DENSE, DENSE, run.language.network)
        dense = measured(run, whole)
        entries = [entry_of(run, whole, dense, dense)]
        for method, level in searches_of(run.config):
            found = pruned(run, method, level)
            entries.append(entry_of(run, found, measured(run, found), dense))
            del found  # before the next one is made
        metrics = metrics_of(run, entries)
        run.folder.write_json("metrics.json", metrics)
        write_report(run.folder.path)
        run.folder.log("report")
        if run.config.trust.examples is not None:
            trust_language(run, Asked.of(run.config.trust))
        return metrics
