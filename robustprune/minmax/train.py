"""The one training loop: every search, dense baseline and fine-tuning runs through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import nn

from robustprune.minmax.average import WeightAverage
from robustprune.minmax.batches import Batches, check_loader, length_of
from robustprune.minmax.compiled import compiled
from robustprune.minmax.constraint import Callback
from robustprune.minmax.fingerprint import training_call
from robustprune.minmax.optimizers import OptimizerLike, Rates, understood
from robustprune.minmax.options import Validation
from robustprune.minmax.progress import Meter
from robustprune.minmax.result import Objective
from robustprune.minmax.resume import Checkpoint, EpochRecord, Keeper
from robustprune.minmax.steps import Training
from robustprune.run.runtime import warn_of_emulated_bfloat16


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    model: nn.Module,
    loader: Batches,
    objective: Objective,
    *,
    optimizer: OptimizerLike,
    epochs: int,
    parameters: Sequence[nn.Parameter] | None = None,
    constraint: Callback | None = None,
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
        optimizer: settings; or a class of torch.optim, a `functools.partial` of one or a function
            of the parameters; a `TorchOptimizer` has a scheduler, too.
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
    optimizer = understood(optimizer)
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
    meter = Meter(title, epochs=epochs, length=length_of(loader), quiet=quiet)
    descent = optimizer.build(moving)
    training = Training(
        model, loader, objective, descent, Rates(optimizer, descent, epochs), moving, epochs, meter,
        device=device, constraint=constraint, validation=validation,
        averaged=None if average is None else WeightAverage(model, average),
        amp=amp, channels_last=channels_last,
    )  # fmt: skip
    if constraint is not None:
        constraint.bind(model, descent, meter.length, epochs)
    if checkpoint is not None:
        call = training_call(
            checkpoint, model, moving, loader=loader, objective=objective, optimizer=optimizer,
            epochs=epochs, constraint=constraint, validation=validation, average=average, amp=amp,
        )  # fmt: skip
        # where no rate and no choice of an epoch looks at the end, fewer epochs are a beginning
        every_epoch = validation is None or validation.every == 1
        longer = every_epoch and not optimizer.depends_on_the_end()
        training.resume(Keeper(checkpoint, model, descent, training.parts(), call, longer=longer))
    with compiled(model) if compile else nullcontext(), meter:
        while not training.over():
            record = training.run_epoch()
            if on_epoch is not None:
                on_epoch(record)
    training.settle()
    return training.progress.history


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
