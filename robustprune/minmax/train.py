"""The one training loop: every search, dense baseline and fine-tuning runs through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NoReturn

import torch
from torch import nn

from attacks.network import NotFinite
from robustprune.minmax.average import WeightAverage, snapshot
from robustprune.minmax.batches import (
    Batches,
    LabelCheck,
    check_loader,
    first_check,
    length_of,
    lonely_batches_explained,
    nothing_left,
    pair_of,
)
from robustprune.minmax.compiled import compiled
from robustprune.minmax.constraint import Constraint
from robustprune.minmax.fingerprint import training_call
from robustprune.minmax.finite import culprit, culprit_of_attack, finite, first_weight
from robustprune.minmax.optimizers import OptimizerSpec, check_optimizer
from robustprune.minmax.options import Validation
from robustprune.minmax.progress import Meter
from robustprune.minmax.result import Objective
from robustprune.minmax.resume import Checkpoint, EpochRecord, Keeper, Progress
from robustprune.run.runtime import (
    first_before_others,
    own_part,
    own_random_numbers,
    step_together,
    warn_of_emulated_bfloat16,
)
from robustprune.sparsity import computed_once

#: what to do about a NaN gradient with respect to the input while all layers give finite outputs
INPUT_GRADIENT = (
    "an operation of the network has no finite derivative there, such as the log of a softmax that "
    "is 0: let it return plain logits, or try a lower learning rate"
)


class TrainingDiverged(ValueError):
    """Loss, gradients or weights became NaN or infinite."""


@torch.inference_mode(False)
@torch.enable_grad()
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
        loader: yields (x, y) batches, or what `pair_of` makes such; one with `state_dict` and
            `load_state_dict` keeps its place in a checkpoint, within epochs too if it has a length.
            Any other draws from torch's global generator, which is kept after each epoch.
        objective: one with `before_epoch(model, epoch)` is told of each epoch (counted from 0)
            before its first batch; one with a state, as above, keeps it in a checkpoint.
        parameters: what moves; default (None) all parameters that require a gradient.
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
        checkpoint: resume from its file if that is there, and save to it. The file says of which
            call it is (see `minmax.fingerprint`), and another call refuses it.
        title: of the progress bar and of errors.
        quiet: no progress bar.
        on_epoch: called with each epoch's record.

    Returns:
        One record an epoch, those before a resume included.

    Raises:
        ValueError: nothing to train, an option out of range, an empty loader, a batch that does
            not fit the model, or a checkpoint of another call.
        TrainingDiverged: loss, gradients or weights became non-finite: the message says where
            first. The model is then back where the epoch began, or where it was resumed.
    """
    check_optimizer(optimizer)
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    moving = _moving(model, parameters)
    check_loader(loader, epochs)
    if validation is not None:
        check_loader(validation.loader, -(-epochs // validation.every))
    device = moving[0].device if device is None else torch.device(device)
    model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if amp:
        warn_of_emulated_bfloat16(device)
    descent = optimizer.build(moving)
    progress = Progress()
    averaged = None if average is None else WeightAverage(model, average)
    before_epoch = getattr(objective, "before_epoch", None)
    length = length_of(loader)
    labels = LabelCheck()
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
        call = training_call(
            checkpoint, model, moving, loader=loader, objective=objective, optimizer=optimizer,
            epochs=epochs, constraint=constraint, validation=validation, average=average, amp=amp,
        )  # fmt: skip
        # where no rate and no choice of an epoch looks at the end, fewer epochs are a beginning
        every_epoch = validation is None or validation.every == 1
        longer = every_epoch and not optimizer.depends_on_the_end()
        keeper = Keeper(checkpoint, model, descent, parts, call, longer=longer)
        with first_before_others():
            progress = keeper.resume()

    def diverge(what: str, *, epoch: int, advice: str = "") -> NoReturn:
        model.load_state_dict(good)
        raise TrainingDiverged(
            f"{title}: {what} became non-finite in epoch {epoch + 1}; the last good state is kept; "
            f"{advice or f'try a learning rate below {optimizer.lr:g}'}"
        )

    def attack_failed(what: str | None, epoch: int, where: str = "") -> NoReturn:
        """The attack found NaN where the loss was not looked at yet."""
        if what is None:
            what, advice = f"the gradient with respect to the input{where}", INPUT_GRADIENT
        else:
            advice = ""
        diverge(what, epoch=epoch, advice=advice)

    def run_epoch() -> EpochRecord:
        started = time.monotonic() - progress.seconds
        model.train()
        if before_epoch is not None and progress.batch == 0:
            try:
                before_epoch(model, progress.epoch)
            except NotFinite:
                attack_failed(first_weight(model), progress.epoch, " in choosing examples")
        with own_random_numbers():
            run_steps(started)
        if progress.batch == 0:
            raise nothing_left(progress.epoch)
        loss, clean, robust = meter.end_of_epoch()
        if (weight := first_weight(model)) is not None:
            diverge(weight, epoch=progress.epoch)
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
        for batch in loader:
            x, y = (part.to(device, non_blocking=True) for part in pair_of(batch))
            if channels_last and x.ndim == 4:
                x = x.to(memory_format=torch.channels_last)
            y = labels(y, lambda x=x, y=y: first_check(model, x, y, objective, loader))  # type: ignore[misc]
            x, y, share = own_part(x, y)
            fraction = (progress.batch + 0.5) / (length or progress.batch + 1)
            epoch = progress.epoch + fraction
            for group in descent.param_groups:
                group["lr"] = optimizer.lr_at(epoch, epochs)
            descent.zero_grad(set_to_none=True)
            forwards = torch.autocast(device.type, torch.bfloat16, enabled=amp)
            with computed_once(model):
                try:
                    with lonely_batches_explained(), forwards:
                        result = objective(model, x, y, epoch)
                except NotFinite:
                    labels.complain()
                    what = culprit_of_attack(model, objective, x, y, epoch)
                    attack_failed(what, progress.epoch)
                penalty = None if constraint is None else constraint.penalty(model)
                descended = result.loss if penalty is None else result.loss + penalty
                descended.backward()  # type: ignore[no-untyped-call]
                mean = step_together(descended, moving, model, share)
                if not finite(mean, moving, labels.flag()):
                    labels.complain()
                    summands = {"loss": result.loss, "penalty of the search": penalty}
                    what = culprit(model, objective, x, y, epoch, summands)
                    diverge(what, epoch=progress.epoch)
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
                    try:
                        clean, robust = validation(model, device)
                    except NotFinite:
                        attack_failed(first_weight(model), progress.epoch - 1, " in validation")
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


def _moving(model: nn.Module, parameters: Sequence[nn.Parameter] | None) -> list[nn.Parameter]:
    """What the optimizer gets."""
    if parameters is None:
        moving = [p for p in model.parameters() if p.requires_grad]
    else:
        moving = list(parameters)
    if not moving:
        none = "no parameter requires a gradient"
        why = none if parameters is None else "`parameters` is empty"
        raise ValueError(f"nothing to train: {why}")
    if still := sum(not p.requires_grad for p in moving):
        raise ValueError(
            f"{still} of the {len(moving)} parameters to train require no gradient; call "
            "requires_grad_(True) on them or leave them out"
        )
    if any(p.is_inference() for p in moving):
        raise ValueError(
            "the network's weights were made under torch.inference_mode and cannot be trained; "
            "make or copy the network, and call the search, outside of it"
        )
    return moving


def _out_of_patience(progress: Progress, validation: Validation | None) -> bool:
    if validation is None or validation.patience is None or progress.best is None:
        return False
    return progress.epoch - progress.best_epoch >= validation.patience
