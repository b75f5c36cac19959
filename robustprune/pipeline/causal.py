"""Prune a causal language model by each method at each level, measure, and write the report.

Nothing is trained. Every network is a folder of Hugging Face's transformers in the run directory,
with its masks beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from robustprune.layerwise import prune_layerwise
from robustprune.minmax import Checkpoint
from robustprune.models.causal import stored_network
from robustprune.models.language import quiet_transformers
from robustprune.pipeline.causal_measure import measured
from robustprune.pipeline.causal_metrics import entry_of, metrics_of
from robustprune.pipeline.causal_run import DENSE, CausalRun, Level, Pruned, searches_of
from robustprune.pipeline.method import Method
from robustprune.pipeline.trust_causal import trust_language
from robustprune.pipeline.trust_page import Asked
from robustprune.report import write_report
from robustprune.run.runtime import seed_stage
from robustprune.search import Ticket
from robustprune.sparsity import MaskSet


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
            pruned = _pruned(run, method, level)
            entries.append(entry_of(run, pruned, measured(run, pruned), dense))
            del pruned  # before the next one is made
        metrics = metrics_of(run, entries)
        run.folder.write_json("metrics.json", metrics)
        write_report(run.folder.path)
        run.folder.log("report")
        if run.config.trust.examples is not None:
            trust_language(run, Asked(examples=run.config.trust.examples))
        return metrics


def _pruned(run: CausalRun, method: Method, level: Level) -> Pruned:
    """Prune and store, or load what an earlier run of the same command stored."""
    name = f"{method.name}-{level.key}"
    if not run.folder.has_model(name):
        seed_stage(run.config.seed, name)
        run.folder.log("start", model=name)
        ticket = _search(run, method, level, name)

        def write(folder: Path) -> None:
            with quiet_transformers():
                cast(Any, ticket.model).save_pretrained(folder)
                run.language.tokenizer.save_pretrained(folder)

        run.folder.save_folder(name, write, ticket.masks, ticket.history)
        run.folder.log("done", model=name, loss=ticket.history[-1].loss)
    # Always load the files, so that the stored model is the measured one.
    masks = run.folder.load_masks(name)
    network = stored_network(run.folder.path / "models" / name)
    title = f"{method.title_of(run.config)}, {level.title}"
    return Pruned(name, title, network, MaskSet(masks), method, level)


def _search(run: CausalRun, method: Method, level: Level, name: str) -> Ticket:
    assert method.causal is not None, "`check_causal` refuses these"
    config = run.config
    options = method.causal(config)
    if ":" in level.pattern:
        options.pop("allocate", None)  # the pattern fixes what each layer keeps
    origin = f"{name} of {run.folder.path.parent.name}, seed {config.seed}"
    place = Checkpoint(run.folder.checkpoint(name), run.checkpoint_seconds, origin=origin)
    drawn = run.calibration
    size = 2 * config.causal.batch_size
    batches = [drawn[at : at + size] for at in range(0, len(drawn), size)]
    return prune_layerwise(
        run.language.network,
        [{"input_ids": ids} for ids in batches],
        density=level.density,
        pattern=level.pattern,
        dense=config.search.dense,
        seed=config.seed,
        device=run.device,
        offload=config.causal.offload,
        checkpoint=place,
        **options,
    )
