"""Checks that the certifying functions share, and the splitting of a batch."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attacks import ThreatModel
from attacks.inputs import check_batch, check_values
from attacks.network import check_no_hooks, logits_of
from robustprune.bounds.graph import BoundGraph
from robustprune.bounds.input_set import input_set
from robustprune.bounds.interval import sweep
from robustprune.bounds.linear import tightened_all
from robustprune.bounds.program import Program

BoundMethod = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[BoundMethod, ...] = get_args(BoundMethod)


def rows_of(x: Tensor, batch_size: int | None) -> list[Tensor]:
    """Return the examples' indices, ``batch_size`` at a time; an empty batch is one empty part."""
    rows = torch.arange(len(x), device=x.device)
    step = batch_size or max(len(x), 1)
    return [rows[begin : begin + step] for begin in range(0, max(len(x), 1), step)]


def check_model(model: nn.Module, device: torch.device) -> None:
    """Raise a ValueError if the model does more than its layers say, or is no fixed function.

    The model must be in eval mode.
    """
    check_no_hooks(model)
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"module '{name}' ({type(module).__name__}) stays in train mode when the model is "
                "set to eval mode; a certificate needs all of it in eval mode"
            )
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise ValueError(f"'{name}' holds infinity or NaN, so that nothing can be certified")
    if torch.is_autocast_enabled(device.type):
        raise ValueError(
            "autocast is on, so that the model runs in another precision than its weights have; "
            "certify outside of it"
        )


def check_trace(graph: BoundGraph, program: Program, sample: Tensor) -> None:
    """Raise a ValueError if the model's logits lie outside the bounds for these points."""
    point = ThreatModel("linf", 0.0)
    inputs = input_set(sample, point, program.dtype, program.precision)
    known = sweep(program, inputs, exact=tightened_all)
    box, lost = known.intervals[program.output], known.lost
    assert lost is not None
    rows = torch.arange(len(sample), device=sample.device)
    # a model that counts its calls or its examples may give other logits in the second call
    for at in (rows, torch.cat((rows, rows))):
        points = sample[at].to(dtype_of(graph.model, sample))
        logits = logits_of(graph.model, points).double()
        inside = (box.lo[at] <= logits) & (logits <= box.hi[at])
        if not bool((inside.all(1) | lost[at]).all()):
            raise ValueError(
                "the trace of the model's operations computes other logits than the model: "
                "randomness, something that changes from call to call or with the number of "
                "examples, or arithmetic coarser than its weights (TF32); remove it"
            )


def dtype_of(model: nn.Module, x: Tensor) -> torch.dtype:
    """Return the dtype in which the model computes."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)


def check_call(
    x: Tensor, y: Tensor, threat: ThreatModel, method: str, steps: int, batch_size: int | None
) -> Tensor:
    """Check the arguments that the public functions share, and return y as int64."""
    y = check_batch(x, y)
    check_values(x, threat.bounds)
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(METHODS)}")
    if steps < 0:
        raise ValueError(f"steps={steps} must be at least 0")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1, or None for all at once")
    if isinstance(threat.eps, Tensor) and len(threat.eps) != len(x):
        raise ValueError(f"eps holds {len(threat.eps)} values for {len(x)} examples")
    return y
