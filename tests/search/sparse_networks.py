"""A small network that is trained sparsely, and a watch over its updates."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Natural,
    OptimizerSpec,
    Validation,
    masks_of,
)
from robustprune.search import SPARSE_METHODS, Ticket, train_sparse
from robustprune.search.sparse_constraint import SparseTraining
from robustprune.sparsity import (
    bake,
)

SPEC = OptimizerSpec(lr=0.1, schedule="constant")
THREAT = ThreatModel("linf", 0.1)
ATTACK = PGD(THREAT, steps=1)
MOVING = [name for name, row in SPARSE_METHODS.items() if row.drop and not row.adaptive]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))


def examples(batches: int = 4) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(8 * batches, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return list(zip(x.split(8), y.split(8), strict=True))


def trained(method: str, model: nn.Module | None = None, **options: Any) -> Ticket:
    chosen = {"density": 0.25, "epochs": 4, "optimizer": SPEC, "quiet": True, **options}
    if "attack" not in chosen:
        chosen.setdefault("objective", Natural())
    if method == "flyingbird_plus":
        chosen.setdefault("validation", Validation(loader=examples()))
    loader = chosen.pop("loader", examples())
    return train_sparse(model or network(), loader, method=method, **chosen)


class Watch:
    """Notes what each update found and made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, x: Tensor | None = None) -> None:
        self.updates: list[dict[str, Any]] = []
        update = SparseTraining.update

        def noted(one: SparseTraining, model: nn.Module, number: int, step: int) -> None:
            weights = {name: layer.weight.detach().clone() for name, layer in one.layers.items()}
            found = {
                "number": number, "step": step, "before": masks_of(model), "weights": weights,
                "gradients": dict(one.gradients), "updates": one.schedule.updates,
            }  # fmt: skip
            update(one, model, number, step)
            found["after"] = masks_of(model)
            found["state"] = copy.deepcopy(one.optimizer.state_dict()["state"])
            found["model"] = {name: value.clone() for name, value in model.state_dict().items()}
            if x is not None:
                found["logits"] = model(x).detach()
                plain = bake(copy.deepcopy(model))
                for name in one.layers:
                    both = found["before"][name] & found["after"][name]
                    assert torch.equal(plain.get_parameter(name)[both], weights[name][both])
                    plain.get_parameter(name).mul_(both)
                found["without growth"] = plain(x).detach()
            self.updates.append(found)

        monkeypatch.setattr(SparseTraining, "update", noted)
