"""The training stages that all methods share: dense baselines and fine-tuned tickets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from robustprune.minmax import (
    Checkpoint,
    History,
    LoopOptions,
    Natural,
    OptimizerSpec,
    Validation,
    train,
)
from robustprune.pipeline.shared import Run
from robustprune.run.checkpoint import load_state
from robustprune.run.config import TrainingSection
from robustprune.run.runtime import seed_stage
from robustprune.search import FinetuneMode, Ticket, finetune_ticket
from robustprune.sparsity import MaskSet, full_masks

Kind = Literal["natural", "robust", "one-shot"]


@dataclass(frozen=True)
class Training:
    """One planned training of the run.

    Attributes:
        name: the name of the model in the run directory.
        kind: the objective that is minimised; "one-shot" trains nothing and only uses `batches`
            batches.
        epochs: the largest number of epochs, since patience may end it sooner; 0 for one-shot.
        batches: the number of batches of one-shot.
        measured: whether its model is in the run's table.
    """

    name: str
    kind: Kind
    epochs: int
    batches: int = 0
    measured: bool = True


@dataclass(frozen=True)
class Fitted:
    """A finished model of the run."""

    name: str
    title: str
    model: nn.Module
    masks: MaskSet


def fit(run: Run, name: str, title: str, make: Callable[[Checkpoint], Ticket]) -> Fitted:
    """Train a model and store it, or load it if an earlier run of the same command did.

    `make` gets the place for its checkpoints. Random numbers start from the run's seed and the
    model's name, so that a stage gives the same result whether or not the stages before it were
    skipped.
    """
    if not run.folder.has_model(name):
        seed_stage(run.config.seed, name)
        run.folder.log("start", model=name)
        origin = f"{name} of {run.folder.path.parent.name}, seed {run.config.seed}"
        ticket = make(
            Checkpoint(run.folder.checkpoint(name), run.checkpoint_seconds, origin=origin)
        )
        masks = None if ticket.masks.density == 1.0 else ticket.masks  # all ones
        run.folder.save_model(name, ticket.model.state_dict(), masks, ticket.history)
        figures = {}
        if ticket.history:
            last = ticket.history[-1]
            figures = {"loss": last.loss, "clean": last.clean, "robust": last.robust}
        run.folder.log("done", model=name, **figures)
    # Always load the file, so that the stored model is the measured one.
    state, stored = run.folder.load_model(name)
    model = run.fresh_model()
    load_state(model, state, run.folder.path / "models" / name)
    return Fitted(name, title, model, MaskSet(stored) if stored else full_masks(model))


def fit_dense(
    run: Run, name: str, section: TrainingSection, *, robust: bool, title: str | None = None
) -> Fitted:
    """Train a dense baseline: on the run's robust objective if `robust`, else on clean examples."""

    def make(checkpoint: Checkpoint) -> Ticket:
        model = run.fresh_model(seeded=True)
        objective, loader = (
            run.robust(section.epochs, name, dense=True) if robust else (Natural(), run.loader())
        )
        history = train(
            model,
            loader,
            objective,
            optimizer=optimizer_of(section),
            epochs=section.epochs,
            **loop_options(run, checkpoint, name, run.validation(attacked=robust)),
        )
        return Ticket(full_masks(model), model, history)

    return fit(run, name, title or f"{name} dense", make)


def fit_finetuned(run: Run, ticket: Fitted, mode: FinetuneMode) -> Fitted:
    """Train the kept weights of a ticket."""
    section, name = run.config.finetune, f"{ticket.name}-{mode}"

    def make(checkpoint: Checkpoint) -> Ticket:
        objective, loader = run.robust(section.epochs, name)
        return finetune_ticket(
            Ticket(ticket.masks, ticket.model, History()),
            loader,
            objective,
            mode=mode,
            epochs=section.epochs,
            optimizer=optimizer_of(section),
            init=section.init if mode == "reinit" else None,
            seed=run.config.seed + 1 if mode == "reinit" else 0,
            **loop_options(run, checkpoint, name, run.validation(attacked=True)),
        )

    return fit(run, name, f"{ticket.title}, fine-tuned ({mode})", make)


def loop_options(
    run: Run, checkpoint: Checkpoint, title: str, validation: Validation | None = None
) -> LoopOptions:
    """Return the options that all trainings of a run share."""
    options: LoopOptions = {
        "average": run.config.loop.average,
        "amp": run.config.loop.amp,
        "channels_last": run.config.loop.channels_last,
        "compile": run.config.loop.compile,
        "device": run.device,
        "checkpoint": checkpoint,
        "title": title,
        "quiet": run.quiet,
    }
    return options if validation is None else {**options, "validation": validation}


def optimizer_of(section: TrainingSection) -> OptimizerSpec:
    return OptimizerSpec(**section.optimizer.model_dump())
