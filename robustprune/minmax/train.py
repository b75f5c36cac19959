"""The one training loop: every search, dense baseline and fine-tuning runs through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NoReturn, TypedDict

import torch
from torch import Tensor, nn

from attacks import Attack
from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.minmax.average import WeightAverage, snapshot
from robustprune.minmax.compiled import compiled
from robustprune.minmax.constraint import Constraint
from robustprune.minmax.finite import culprit, finite, first_weight
from robustprune.minmax.objectives import Objective
from robustprune.minmax.optimizers import OptimizerSpec
from robustprune.minmax.progress import Meter
from robustprune.minmax.resume import Checkpoint, EpochRecord, Keeper, Progress
from robustprune.run.runtime import (
    first_before_others,
    own_part,
    own_random_numbers,
    step_together,
    summed,
    warn_of_emulated_bfloat16,
)
from robustprune.sparsity import computed_once

#: a loader: anything that yields (x, y) batches anew at each iteration
Batches = Iterable[Sequence[Tensor]]


class TrainingDiverged(ValueError):
    """Loss, gradients or weights became NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Choose the epoch by accuracy on examples held out of the training data.

    The epoch with the highest accuracy under `attack` wins (clean accuracy where it is None; of
    equal ones the later). Without a Validation the last epoch is the result. Test data have no
    place here. Robust accuracy on unseen data falls again when training goes on (Rice et al. 2020,
    arXiv 2002.11569): `patience` ends it after so many epochs without a new best.
    """

    loader: Batches
    attack: Attack | None = None
    every: int = 1
    patience: int | None = None

    def __call__(self, model: nn.Module, device: torch.device) -> tuple[float, float | None]:
        clean = robust = n = 0
        with evaluating(model), computed_once(model), own_random_numbers():
            for x, y in self.loader:
                x, y, share = own_part(x.to(device), y.to(device))
                if share == 0.0:
                    continue
                with torch.no_grad():
                    clean += int((logits_of(model, x).argmax(1) == y).sum())
                if self.attack is not None:
                    x_adv = self.attack(model, x, y)
                    with torch.no_grad():
                        robust += int((logits_of(model, x_adv).argmax(1) == y).sum())
                n += len(y)
        clean, robust, n = summed(torch.tensor([clean, robust, n])).tolist()
        return clean / n, None if self.attack is None else robust / n


class LoopOptions(TypedDict, total=False):
    """How a training runs, not what it learns: every search hands these on to `train`, whose
    docstring explains them."""

    amp: bool
    channels_last: bool
    compile: bool
    device: torch.device | str
    checkpoint: Checkpoint | None
    title: str
    quiet: bool
    on_epoch: Callable[[EpochRecord], None]


def train(
    model: nn.Module,
    loader: Batches,
    objective: Objective,
    *,
    optimizer: OptimizerSpec,
    epochs: int,
    parameters: Sequence[nn.Parameter] | None = None,
    constraint: Constraint | None = None,
    validation: Validation | None = None,
    average: float | None = None,
    amp: bool = False,
    channels_last: bool = False,
    compile: bool = False,
    device: torch.device | str | None = None,
    checkpoint: Checkpoint | None = None,
    title: str = "training",
    quiet: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> list[EpochRecord]:
    """Minimise E[objective(model, x, y, epoch)] over `parameters`, in place.

    Masked weights are computed once per step and shared by the K steps of the inner attack.

    On several ranks each attacks its own part of every batch, with no word to the others, and the
    gradients are put together before the step; see docs/distributed.md.

    Args:
        loader: yields (x, y) batches; one with `state_dict`/`load_state_dict` keeps its place in
            a checkpoint, within epochs too if it has a length. Any other draws from torch's global
            generator, which is kept after each epoch.
        objective: one with `before_epoch(model, epoch)` is told of each epoch (counted from 0)
            before its first batch; one with a state, as above, keeps it in a checkpoint.
        parameters: what moves; default all parameters that require a gradient.
        constraint: what the search adds to the loop.
        validation: choose the epoch on held-out training data; default the last.
        average: decay of an exponential moving average of the weights, which is then what is
            validated and returned; default none.
        amp: forward passes in bfloat16 where torch finds it safe (autocast). A warning says so
            where the processor has no bfloat16 and float32 would be faster.
        channels_last: images and weights of two-dimensional convolutions lie channels last in
            memory, which tensor cores want; shapes stay as they are.
        compile: forward and backward passes through `torch.compile`. Compiling takes tens of
            seconds; results may differ in the last bits.
        device: where to train; default where the model is.
        checkpoint: resume from its file if that is there, and save to it.
        title: of the progress bar and of errors.
        quiet: no progress bar.
        on_epoch: called with each epoch's record.

    Returns:
        One record an epoch, those before a resume included.

    Raises:
        ValueError: nothing to train, an empty loader, or a batch that does not fit the model.
        TrainingDiverged: loss, gradients or weights became non-finite: the message says where
            first. The model is then back where the epoch began, or where it was resumed.
    """
    moving = list(parameters or (p for p in model.parameters() if p.requires_grad))
    if not moving:
        raise ValueError("nothing to train: no parameter requires a gradient")
    device = moving[0].device if device is None else torch.device(device)
    model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if amp:
        warn_of_emulated_bfloat16(device)
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    descent = optimizer.build(moving)
    progress = Progress()
    averaged = None if average is None else WeightAverage(model, average)
    before_epoch = getattr(objective, "before_epoch", None)
    length = len(loader) if hasattr(loader, "__len__") else None  # type: ignore[arg-type]
    meter = Meter(title, epochs=epochs, length=length, quiet=quiet)
    keeper = None
    if checkpoint is not None:
        parts: dict[str, object] = {
            "loader": loader,
            "objective": objective,
            "constraint": constraint,
            "average": averaged,
            "meter": meter,
        }
        keeper = Keeper(checkpoint, model, descent, parts)
        with first_before_others():
            progress = keeper.resume()

    def diverge(what: str) -> NoReturn:
        model.load_state_dict(good)
        raise TrainingDiverged(
            f"{title}: {what} became non-finite in epoch {progress.epoch + 1}; the last good state "
            f"is kept; try a learning rate below {optimizer.lr:g}"
        )

    def run_epoch() -> EpochRecord:
        started = time.monotonic() - progress.seconds
        model.train()
        if before_epoch is not None and progress.batch == 0:
            before_epoch(model, progress.epoch)
        with own_random_numbers():
            run_steps(started)
        if progress.batch == 0:
            raise ValueError("the loader has no batches: is the data set smaller than one batch?")
        loss, clean, robust = meter.end_of_epoch()
        if (weight := first_weight(model)) is not None:
            diverge(weight)
        return EpochRecord(
            epoch=progress.epoch,
            step=progress.step,
            loss=loss,
            clean=clean,
            robust=robust,
            lr=float(descent.param_groups[0]["lr"]),
            seconds=time.monotonic() - started,
        )

    def run_steps(started: float) -> None:
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            if channels_last and x.ndim == 4:
                x = x.to(memory_format=torch.channels_last)
            if progress.step == 0:
                _check_batch(model, x, y)
            x, y, share = own_part(x, y)
            fraction = (progress.batch + 0.5) / (length or progress.batch + 1)
            epoch = progress.epoch + fraction
            for group in descent.param_groups:
                group["lr"] = optimizer.lr_at(epoch, epochs)
            descent.zero_grad(set_to_none=True)
            with computed_once(model):
                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    result = objective(model, x, y, epoch)
                penalty = None if constraint is None else constraint.penalty(model)
                descended = result.loss if penalty is None else result.loss + penalty
                descended.backward()  # type: ignore[no-untyped-call]
                mean = step_together(descended, moving, model, share)
                if not finite(mean, moving):
                    summands = {"loss": result.loss, "penalty of the search": penalty}
                    diverge(culprit(model, objective, x, y, epoch, summands))
                if share > 0:
                    meter.update(result, model, x, y)
            descent.step()
            progress.batch += 1
            progress.step += 1
            if constraint is not None:
                constraint.after_step(model, progress.step)
            if averaged is not None:
                averaged.update(model)
            progress.seconds = time.monotonic() - started
            if keeper is not None and length is not None and progress.batch < length:
                keeper.within_epoch(progress)

    good = snapshot(model)
    with compiled(model) if compile else nullcontext(), meter:
        while progress.epoch < epochs and not _out_of_patience(progress, validation):
            record = run_epoch()
            progress.epoch, progress.batch, progress.seconds = progress.epoch + 1, 0, 0.0
            last = progress.epoch == epochs
            if constraint is not None:
                record = replace(record, figures=constraint.after_epoch(model, progress.epoch))
            if validation is not None and (last or progress.epoch % validation.every == 0):
                with averaged.swapped_in(model) if averaged else nullcontext():
                    clean, robust = validation(model, device)
                    record = replace(record, val_clean=clean, val_robust=robust)
                    score = clean if robust is None else robust
                    if score >= progress.best_score:
                        progress.best_score, progress.best = score, snapshot(model)
                        progress.best_epoch = progress.epoch
            progress.history.append(record)
            good = snapshot(model)
            if keeper is not None:
                keeper.after_epoch(progress)
            if on_epoch is not None:
                on_epoch(record)
    if progress.best is not None:
        model.load_state_dict(progress.best)
    elif averaged is not None:
        model.load_state_dict(averaged.state)
    return progress.history


def _out_of_patience(progress: Progress, validation: Validation | None) -> bool:
    if validation is None or validation.patience is None or progress.best is None:
        return False
    return progress.epoch - progress.best_epoch >= validation.patience


@torch.no_grad()
def _check_batch(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Look at the first batch once, where a mistake would otherwise surface deep in torch."""
    if not x.is_floating_point():
        raise ValueError(f"inputs must be floating point, got {x.dtype}; scale them first")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the first batch has non-finite inputs (NaN or infinity)")
    with evaluating(model):
        logits = logits_of(model, x)
    if logits.ndim != 2 or len(logits) != len(y):
        raise ValueError(
            f"the model must map a batch to logits of shape (N, classes), got "
            f"{tuple(logits.shape)} for {len(y)} examples"
        )
    if y.dtype != torch.int64 or y.ndim != 1:
        raise ValueError(f"labels must be int64 of shape (N,), got {y.dtype} {tuple(y.shape)}")
    classes = logits.shape[1]
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for a model with {classes} outputs, got "
            f"{int(y.min())}..{int(y.max())}"
        )
