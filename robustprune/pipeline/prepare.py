"""Turn a config into a run, and check everything possible before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from attacks import ThreatModel
from robustprune.pipeline.combinations import check_training, check_updates
from robustprune.pipeline.methods import check_methods, methods_of
from robustprune.pipeline.networks import check_network, origin_of
from robustprune.pipeline.plan import check_certified, planned_trainings
from robustprune.pipeline.selection import check_length, check_selection
from robustprune.pipeline.shared import NEED_PGD, Run
from robustprune.pipeline.text import check_text, encoder_of
from robustprune.pipeline.trust_more import check_more
from robustprune.pipeline.trust_page import Asked
from robustprune.run.config import Config
from robustprune.run.naming import check_code_is_named
from robustprune.run.rundir import RunDir, open_run
from robustprune.run.runtime import environment, ranks
from robustprune.run.sections import CausalSection
from robustprune.search import SPARSE_METHODS
from robustprune.sparsity import (
    Allocation,
    check_allocation,
    check_pattern,
    groups_of,
    maskable_layers,
)
from robustprune.tasks import Task, corpus_names, holdout, load_task, text_names, told_repeats


def is_causal(config: Config) -> bool:
    """Return whether the config's task is text for a causal language model."""
    return config.task.name in corpus_names()


def prepare(
    config: Config,
    *,
    out: Path,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
    network: str | None = None,
    checkpoint_seconds: float = 15.0,
) -> Run:
    """Load the data, check that the network fits them, and open the run directory.

    Nothing is written before these checks.

    Args:
        network: the `package.module:function` of your own network, if the config names one. Its
            module is imported, so a config alone can't name it.

    Raises:
        ValueError, OSError: the config, the data or the folder is invalid; the message is one
            complete line.
    """
    run = planned_run(
        config, out=out, data_dir=data_dir, device=device, quiet=quiet, network=network
    )
    origin = origin_of(config.model, run.task, own_data=config.task.path is not None)
    folder = open_run(config, out, environment(run.device), origin)
    return replace(run, folder=folder, checkpoint_seconds=checkpoint_seconds)


def planned_run(
    config: Config,
    *,
    out: Path,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
    network: str | None = None,
) -> Run:
    """Do the same as `prepare`, but neither make nor read the run directory.

    Raises:
        ValueError, OSError: as in `prepare`.
    """
    device = torch.device(device)
    if config.causal != CausalSection():
        raise ValueError(
            f"section causal has no effect on task {config.task.name}; leave it out, or take a "
            f"task of running text: {', '.join(corpus_names())}"
        )
    check_code_is_named(config.model.name, [network])
    check_more(Asked.of(config.trust), config, causal=False, text=config.task.name in text_names())
    task = told_repeats(task_of(config, data_dir))
    training, held_out = task.train, None
    if config.task.validation > 0:
        training, held_out = holdout(task.train, config.task.validation, config.seed)
    threat = ThreatModel(config.threat.norm, config.threat.eps, task.bounds, task.support)
    model = check_network(config.model, task, config.seed)
    layers = maskable_layers(model, dense=config.search.dense)
    _check_search(config, layers)
    folder = RunDir(config.folder(out))
    run = Run(config, task, training, held_out, threat, device, folder, quiet, data_dir=data_dir)
    if set(config.search.methods) & set(SPARSE_METHODS):
        replays = config.objective.replays if config.objective.name == "free" else 1
        check_updates(config, len(run.loader()) * replays)
    return run


def task_of(config: Config, data_dir: Path | None) -> Task:
    """Load the data that the config names.

    Raises:
        ValueError, FileNotFoundError: as in `tasks.load_task`.
    """
    section = config.task
    return load_task(
        section.name,
        data_dir=data_dir,
        path=section.path,
        bounds=section.bounds,
        length=section.length,
        missing=section.missing,
        label=section.label,
        header=section.header,
        layout=section.layout,
        test=section.test,
        size=section.size,
        encoder=encoder_of(config) if section.name in text_names() else None,
    )


def _check_search(config: Config, layers: Mapping[str, nn.Module]) -> None:
    """Check what must fit together with the rest of the config, before anything is written."""
    check_selection(config)
    check_text(config)
    if config.selection.method != "none" and ranks() > 1:
        raise ValueError(
            f"selection needs whole batches and runs on one process, not on {ranks()} ranks"
        )
    search = config.search
    for density in search.density:
        check_pattern(search.pattern, density)
    if isinstance(search.allocate, dict) and set(search.allocate) != set(layers):
        raise ValueError(
            "search.allocate must give a density for every masked layer and no other: "
            f"{', '.join(layers)}"
        )
    check_training(config)
    check_methods(config)
    check_certified(config)
    groups = groups_of(layers, search.pattern)
    asked = [share for method in methods_of(config) for share in method.allots(config)]
    for share in dict.fromkeys(asked):
        check_allocation(cast(Allocation, search.allocate), groups, share)
    if config.sparse.allocate is not None and set(search.methods) & set(SPARSE_METHODS):
        check_allocation(config.sparse.allocate, groups, None)
    for training in planned_trainings(config):
        if training.kind == "robust" and training.name != "adversarial_all":
            check_length(config.selection, training.name, training.epochs)
    if config.objective.name in NEED_PGD and config.inner.attack != "pgd":
        raise ValueError(
            f"objective {config.objective.name} needs inner.attack pgd, got {config.inner.attack}"
        )
    if config.loop.patience is not None and config.task.validation == 0:
        raise ValueError("loop.patience needs a validation split; set task.validation to 0.1, say")
