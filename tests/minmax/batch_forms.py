"""A small network, and batches in the forms in which loaders yield them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from attacks import ThreatModel
from robustprune.minmax import (
    Natural,
    OptimizerSpec,
    train,
)

SPEC = OptimizerSpec(lr=0.1)
THREAT = ThreatModel("linf", 0.1)
CLASSES = 3


def examples(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(n) % CLASSES


def network(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, CLASSES))


def go(loader: Iterable[Any], model: nn.Module | None = None, **options: Any) -> float:
    settings_ = {"optimizer": SPEC, "epochs": 1, "quiet": True, **options}
    objective = settings_.pop("objective", Natural())
    return train(model or network(), loader, objective, **settings_)[-1].loss


def forms(x: Tensor, y: Tensor) -> dict[str, Any]:
    """One batch as loaders of this world yield it."""
    index = torch.arange(len(y))
    return {
        "tuple": (x, y),
        "list": [x, y],
        "triple": (x, y, index),
        "names": (x, y, index, ["a"] * len(y)),
        "x and y": {"x": x, "y": y, "index": index},
        "transformers": {"pixel_values": x, "labels": y},
        "audio": {"input_values": x, "label": y, "path": ["a"] * len(y)},
    }
