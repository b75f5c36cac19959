"""Prune a causal language model by one method at one level, and keep it in the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from attacks.text import quiet_transformers
from robustprune.layerwise import prune_layerwise
from robustprune.minmax import Checkpoint
from robustprune.models.causal import stored_network
from robustprune.pipeline.causal_run import CausalRun, Level, Pruned
from robustprune.pipeline.method import Method
from robustprune.run.runtime import seed_stage
from robustprune.search import Ticket
from robustprune.sparsity import MaskSet


def pruned(run: CausalRun, method: Method, level: Level) -> Pruned:
    """Prune and store, or load what an earlier run of the same command stored."""
    name = f"{method.name}-{level.key}"
    if not run.folder.has_model(name):
        seed_stage(run.config.seed, name)
        run.folder.log("start", model=name)
        ticket = _search(run, method, level, name)
        store(run, name, ticket.model, ticket.masks, ticket.history)
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


def store(
    run: CausalRun,
    name: str,
    network: nn.Module,
    masks: MaskSet | None,
    history: Sequence[Any],
) -> None:
    """Write a network as a folder of transformers, with its masks and its history beside it."""

    def write(folder: Path) -> None:
        with quiet_transformers():
            cast(Any, network).save_pretrained(folder)
            run.language.tokenizer.save_pretrained(folder)

    run.folder.save_folder(name, write, masks, history)
