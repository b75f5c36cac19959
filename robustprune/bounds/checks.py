"""Checks that the certifying functions share, and how they split a batch."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attacks import ThreatModel
from attacks.inputs import check_batch, check_values
from robustprune.bounds.graph import BoundGraph

BoundMethod = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[BoundMethod, ...] = get_args(BoundMethod)
#: relative difference beyond which a trace does not compute what the model computes
SAME = 1e-3


def rows_of(x: Tensor, batch_size: int | None) -> list[Tensor]:
    """Indices of the examples, ``batch_size`` at a time; one empty part for an empty batch."""
    rows = torch.arange(len(x), device=x.device)
    step = batch_size or max(len(x), 1)
    return [rows[begin : begin + step] for begin in range(0, max(len(x), 1), step)]


def check_trace(graph: BoundGraph, sample: Tensor) -> None:
    """Raise ValueError where the trace does not compute what the model computes."""
    sample = sample.to(dtype_of(graph.model, sample))
    traced, logits = graph.program(sample).logits, graph.model(sample)
    assert traced is not None
    allowed = max(SAME, 100 * torch.finfo(logits.dtype).eps) * (1 + logits.abs().amax())
    if bool((logits - traced).abs().amax() > allowed):
        raise ValueError(
            "the trace of the model's operations computes other logits than the model: hooks, "
            "operations in place on a value that is used again, or randomness; remove them"
        )


def dtype_of(model: nn.Module, x: Tensor) -> torch.dtype:
    """What the model computes in."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)


def check_call(
    x: Tensor, y: Tensor, threat: ThreatModel, method: str, steps: int, batch_size: int | None
) -> Tensor:
    """Check what the public functions share; return y as int64."""
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
