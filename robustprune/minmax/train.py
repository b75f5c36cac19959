"""The one training loop, which runs every search, every dense baseline and fine-tuning."""

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
from robustprune.minmax.history import EpochRecord, History
from robustprune.minmax.optimizers import OptimizerLike, Rates, understood
from robustprune.minmax.options import Validation
from robustprune.minmax.progress import Meter
from robustprune.minmax.result import Objective, check_objective
from robustprune.minmax.resume import Checkpoint, Keeper
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
) -> History:
    """Minimise E[objective(model, x, y, epoch)] over `parameters`, in place.

    Masked weights are computed once per step and used by all steps of the inner attack. On several
    ranks, each rank attacks its own part of every batch without communication, and the gradients
    are combined before the step; see docs/distributed.md.

    Args:
        loader: an iterable of (x, y) batches, or of what `pair_of` accepts. If it has `state_dict`
            and `load_state_dict`, a checkpoint contains its position, within epochs too if it has a
            length. Any other loader draws from torch's global generator, whose state is saved after
            each epoch.
        objective: the loss. If it has `before_epoch(model, epoch)`, this is called before the first
            batch of each epoch (counted from 0). If it has a state, as above, a checkpoint contains
            it.
        optimizer: an `OptimizerSpec`; a class of torch.optim, a `functools.partial` of one or a
            function of the parameters; or a `TorchOptimizer`, which also has a scheduler.
        parameters: the parameters to train; None for all parameters that require a gradient.
        constraint: what the search adds to the loop; None for plain training.
        validation: how the epoch is chosen on held-out training data; None for the last epoch.
        average: the decay of an exponential moving average of the weights, in (0, 1). The averaged
            weights are validated and returned. None for no average.
        amp: whether forward passes use bfloat16 where torch finds it safe (autocast). A warning is
            given if the processor has no bfloat16 and float32 would be faster.
        channels_last: whether images and weights of two-dimensional convolutions use the memory
            layout with channels last, which is faster on tensor cores; shapes do not change.
        compile: whether `torch.compile` runs the forward and backward passes. Compiling takes tens
            of seconds, and results may differ in the last bits.
        device: the device for training; None for the model's device.
        checkpoint: the file from which the training is resumed if it exists, and to which it is
            saved. A checkpoint of another call is refused (see `minmax.fingerprint`). None saves
            nothing.
        title: the title of the progress bar and of errors.
        quiet: whether the progress bar is hidden.
        on_epoch: a function that is called with the record of each epoch, such as `log_epochs`;
            None for none.

    Returns:
        One record for each epoch, including those before a resume.

    Raises:
        ValueError: there is nothing to train, an option is out of range, the loader is empty, a
            batch does not fit the model, or the checkpoint belongs to another call.
        TrainingDiverged: the loss, a gradient or a weight became non-finite; the message says which
            was first. The model then has its state from the start of the epoch, or from the resume.
    """
    check_objective(objective)
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
        # if neither rates nor the chosen epoch depend on the end, a shorter run is a beginning
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
    """Return the parameters for the optimizer."""
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
