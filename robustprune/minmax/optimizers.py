"""The optimizer and the learning-rate schedule as one value: settings, or classes of torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from robustprune.run.suggest import did_you_mean

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "linear", "step"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """Settings of SGD with momentum, Adam or AdamW, with a schedule of the learning rate.

    Attributes:
        name: "sgd"; "adam", which adds weight_decay · θ to the gradient; or "adamw", which
            subtracts lr · weight_decay · θ from the weights (Loshchilov & Hutter 2019, arXiv
            1711.05101).
        schedule: the learning rate at epoch t of T: "constant"; "cosine", lr · ½(1 + cos πt/T);
            "linear", lr · (1 − t/T); or "step", where lr is divided by 10 at each of the
            `milestones` (epochs).
        warmup: the number of epochs in which the rate grows linearly from zero to the value of the
            schedule.

    Raises:
        ValueError: a name or schedule is unknown, a number is out of range, or an option has no
            effect.
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
        """Return whether the rate at an epoch depends on the number of epochs."""
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
        """Return the learning rate after `epoch` (fractional) epochs of a training of `epochs`."""
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


@dataclass(frozen=True)
class TorchOptimizer:
    """An optimizer of torch with a scheduler of torch.

    Attributes:
        make: a function from parameters to an optimizer, such as
            `functools.partial(torch.optim.AdamW, lr=1e-3)`.
        scheduler: a function from the optimizer to a scheduler; None for a constant rate.
        each: "epoch" or "step": when the scheduler makes a step.

    Raises:
        ValueError: `each` is neither "epoch" nor "step", or has no effect.
    """

    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    each: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        if self.each not in ("epoch", "step"):
            raise ValueError(f"each={self.each!r} of a TorchOptimizer must be 'epoch' or 'step'")
        if self.scheduler is None and self.each != "epoch":
            raise ValueError(f"each={self.each!r} has no effect without a scheduler; leave it out")

    def depends_on_the_end(self) -> bool:
        """Return False, because a scheduler takes its end from its own options."""
        return False

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        moving = list(parameters)
        made = self.make(moving)
        if not isinstance(made, torch.optim.Optimizer):
            raise ValueError(
                f"the optimizer's factory returned a {type(made).__name__}; let it return a "
                "torch.optim.Optimizer of the parameters that it is called with"
            )
        if isinstance(made, torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates the loss several times a step; take SGD or Adam")
        held = [id(parameter) for group in made.param_groups for parameter in group["params"]]
        if set(held) != {id(parameter) for parameter in moving}:
            raise ValueError(
                "the optimizer's factory returned one of other parameters than it was called with; "
                "a search trains a copy of the network: take the factory's argument"
            )
        return made


#: the types that the loop accepts as its optimizer; see `understood`
OptimizerLike = OptimizerSpec | TorchOptimizer | Callable[..., torch.optim.Optimizer]


def understood(optimizer: object) -> OptimizerSpec | TorchOptimizer:
    """Return settings unchanged. A class of torch.optim, a `functools.partial` of one, or any
    other function of the parameters becomes a `TorchOptimizer`.

    Raises:
        ValueError: it is something else, such as an optimizer that is built already.
    """
    if isinstance(optimizer, OptimizerSpec | TorchOptimizer):
        return optimizer
    if callable(optimizer):
        return TorchOptimizer(optimizer)
    kind, options = type(optimizer), ["lr=0.1"]
    if isinstance(optimizer, torch.optim.Optimizer):
        group = optimizer.param_groups[0]
        given = [k for k in ("lr", "momentum", "weight_decay") if isinstance(group.get(k), float)]
        options = [f"{key}={group[key]:g}" for key in given] or options
        made = f"functools.partial(torch.optim.{kind.__name__}, {', '.join(options)})"
        raise ValueError(
            f"optimizer is a {kind.__name__} that holds parameters already, and a search trains a "
            f"copy of the network; give {made}, or OptimizerSpec"
        )
    raise ValueError(
        f"optimizer is of type {kind.__module__}.{kind.__name__}; give its settings as "
        f"OptimizerSpec({', '.join(options)}), or a function of the parameters, such as a class of "
        "torch.optim"
    )


class Rates:
    """Set the learning rate of an optimizer during a training of `epochs` epochs."""

    def __init__(
        self, like: OptimizerSpec | TorchOptimizer, optimizer: torch.optim.Optimizer, epochs: int
    ) -> None:
        self.like, self.optimizer, self.epochs = like, optimizer, epochs
        self.scheduler: LRScheduler | None = None
        if isinstance(like, TorchOptimizer) and like.scheduler is not None:
            self.scheduler = like.scheduler(optimizer)
            if isinstance(self.scheduler, ReduceLROnPlateau):
                raise ValueError(
                    "ReduceLROnPlateau needs a measure, which the loop does not give to it; take a "
                    "scheduler that counts, such as MultiStepLR or CosineAnnealingLR"
                )

    @property
    def lr(self) -> float:
        """The rate that the message of a failed training names."""
        if isinstance(self.like, OptimizerSpec):
            return self.like.lr
        return float(self.optimizer.param_groups[0]["lr"])

    def before_step(self, epoch: float) -> None:
        """Set the rate for a step. `epoch` is fractional. A group of parameters with an "lr_scale"
        has so many times the rate."""
        if isinstance(self.like, OptimizerSpec):
            for group in self.optimizer.param_groups:
                group["lr"] = self.like.lr_at(epoch, self.epochs) * group.get("lr_scale", 1.0)

    def after(self, what: Literal["epoch", "step"], times: int = 1) -> None:
        """The loop calls it after each step and epoch, and once for all earlier ones on a
        resume."""
        if self.scheduler is not None and getattr(self.like, "each", None) == what:
            with warnings.catch_warnings():
                if times != 1:  # another process made the optimizer's steps
                    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler")
                for _ in range(times):
                    self.scheduler.step()


def _fused(moving: list[nn.Parameter]) -> bool | None:
    """Return whether to use torch's fused step, which is about ten times faster on a CPU.

    On a CPU it ignores strides, so a gradient with another memory layout than its weight (channels
    last) would go to the wrong entries. On other devices None lets torch choose.
    """
    on_cpu = all(p.device.type == "cpu" and p.is_contiguous() for p in moving)
    return True if on_cpu else None
