"""Optimizer and learning-rate schedule as one value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """SGD with momentum, Adam or AdamW, with the learning rate as a function of the epoch.

    Attributes:
        name: "adam" adds weight_decay · θ to the gradient, "adamw" takes lr · weight_decay · θ off
            the weights (Loshchilov & Hutter 2019, arXiv 1711.05101).
        schedule: "constant"; "cosine", lr · ½(1 + cos πt/T); "linear", lr · (1 − t/T); or "step",
            divided by 10 at each of `milestones` (epochs).
        warmup: epochs of linear growth from zero before the schedule's own value is reached.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    warmup: float = 0.0

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


def _fused(moving: list[nn.Parameter]) -> bool | None:
    """Whether one pass over each parameter does the whole step, about ten times faster on a CPU.

    There it reads memory in order without a look at strides, so that a gradient laid out otherwise
    than its weight (channels last) would go to the wrong entries. Elsewhere torch chooses.
    """
    on_cpu = all(p.device.type == "cpu" and p.is_contiguous() for p in moving)
    return True if on_cpu else None
