"""Optimizer and learning-rate schedule as one value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from robustprune.run.suggest import did_you_mean

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "linear", "step"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """SGD with momentum, Adam or AdamW, with the learning rate as a function of the epoch.

    Attributes:
        name: "adam" adds weight_decay · θ to the gradient, "adamw" takes lr · weight_decay · θ off
            the weights (Loshchilov & Hutter 2019, arXiv 1711.05101).
        schedule: "constant"; "cosine", lr · ½(1 + cos πt/T); "linear", lr · (1 − t/T); or "step",
            divided by 10 at each of `milestones` (epochs).
        warmup: epochs of linear growth from zero before the schedule's own value is reached.

    Raises:
        ValueError: an unknown name or schedule, a number out of range, or an option without effect.
    """

    name: OptimizerName = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    warmup: float = 0.0

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("name", self.name, get_args(OptimizerName)),
            ("schedule", self.schedule, get_args(Schedule)),
        ):
            if value not in allowed:
                raise ValueError(
                    f"optimizer {what}={value!r} is not known"
                    f"{did_you_mean(str(value), allowed)}; choose one of {', '.join(allowed)}"
                )
        for what, number in (
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("warmup", self.warmup),
            *(("milestones", milestone) for milestone in self.milestones),
        ):
            if not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise ValueError(
                    f"optimizer {what}={number!r} must be a number, at least 0 and finite"
                )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer momentum={self.momentum} must lie in [0, 1)")
        if self.name != "sgd" and self.momentum != OptimizerSpec.momentum:
            raise ValueError(
                f"optimizer momentum={self.momentum} has no effect with {self.name!r}, which has "
                "moments of its own; leave it out or take 'sgd'"
            )
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError(
                f"optimizer milestones={self.milestones} and schedule={self.schedule!r} do not go "
                "together; milestones are the epochs of schedule 'step', which needs some"
            )

    def depends_on_the_end(self) -> bool:
        """Whether the rate at an epoch depends on how many there will be."""
        return self.schedule in ("cosine", "linear")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        moving = list(parameters)
        common: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "fused": _fused(moving),
        }
        if self.name == "adam":
            return torch.optim.Adam(moving, **common)
        if self.name == "adamw":
            return torch.optim.AdamW(moving, **common)
        return torch.optim.SGD(moving, momentum=self.momentum, **common)

    def lr_at(self, epoch: float, epochs: int) -> float:
        """Learning rate `epoch` (fractional) epochs into a training of `epochs`."""
        factor = 1.0
        if self.schedule == "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * min(epoch / epochs, 1.0)))
        elif self.schedule == "linear":
            factor = 1.0 - min(epoch / epochs, 1.0)
        elif self.schedule == "step":
            factor = 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        if epoch < self.warmup:
            factor *= epoch / self.warmup
        return self.lr * factor


def check_optimizer(optimizer: object) -> None:
    """Raise ValueError unless it is an `OptimizerSpec`, with the one to give in its place."""
    if isinstance(optimizer, OptimizerSpec):
        return
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    options = ["lr=0.1"]
    if isinstance(optimizer, torch.optim.Optimizer):
        group = optimizer.param_groups[0]
        given = [k for k in ("lr", "momentum", "weight_decay") if isinstance(group.get(k), float)]
        options = [f"{key}={group[key]:g}" for key in given] or options
    if kind.__name__.lower() in get_args(OptimizerName):
        options = [f"name={kind.__name__.lower()!r}", *options]
    raise ValueError(
        f"optimizer is of type {kind.__module__}.{kind.__name__}; give its settings as "
        f"OptimizerSpec({', '.join(options)}): the loop builds it for what a search moves"
    )


def _fused(moving: list[nn.Parameter]) -> bool | None:
    """Whether one pass over each parameter does the whole step, about ten times faster on a CPU.

    There it reads memory in order without a look at strides, so that a gradient laid out otherwise
    than its weight (channels last) would go to the wrong entries. Elsewhere torch chooses.
    """
    on_cpu = all(p.device.type == "cpu" and p.is_contiguous() for p in moving)
    return True if on_cpu else None
