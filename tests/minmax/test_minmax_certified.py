"""Certified objectives: their formula, their schedule, and that they certify what they train."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import ThreatModel
from robustprune.bounds import (
    BoundGraph,
    certified,
    crown_ibp_margins,
    interval_margins,
    trace,
)
from robustprune.minmax import Certified, Natural, OptimizerSpec, train
from robustprune.search import find_scratch_ticket

THREAT = ThreatModel("linf", 0.3)


def network(hidden: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def batch(n: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    x[:, 0] += 0.6 * (2 * y - 1)
    return x, y


def test_a_linear_model_has_its_exact_worst_case_loss() -> None:
    model, (x, y) = nn.Linear(4, 2), batch()
    result = Certified(THREAT, warmup=0.0, kappa=0.0)(model, x, y, 5.0)
    w = model.weight[1] - model.weight[0]
    gap = (2 * y - 1) * (x @ w + model.bias[1] - model.bias[0]) - 0.3 * w.abs().sum()
    assert float(result.loss.detach()) == pytest.approx(
        float(F.softplus(-gap).mean().detach()), rel=1e-5
    )
    assert (int(result.right), result.counted) == (int((gap > 0).sum()), len(y))


def test_a_network_that_decides_by_ties_certifies_nothing() -> None:
    dead = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    nn.init.constant_(dead[0].bias, -100.0)  # all its logits are 0, as after too much pruning
    x, y = batch()
    for method in ("ibp", "crown-ibp"):
        for epoch in (0.0, 0.5, 2.0):
            objective = Certified(THREAT, method=method, warmup=1.0)  # type: ignore[arg-type]
            result = objective(dead, x, y, epoch)
            assert (int(result.right), result.counted) == (0, len(y))
    assert not certified(dead, x, y, THREAT).any()


@pytest.mark.parametrize("epoch", [0.0, 1.0, 3.0, 4.0, 9.0])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_the_schedule_by_its_formula(method: str, epoch: float) -> None:
    model, (x, y) = network(), batch()
    objective = Certified(THREAT, method=method, warmup=4.0, kappa=0.4)  # type: ignore[arg-type]
    t = min(1.0, epoch / 4)
    threat = replace(THREAT, eps=0.3 * t)
    margins = interval_margins(model, x, y, threat)
    if method == "crown-ibp":
        margins = (1 - t) * crown_ibp_margins(model, x, y, threat) + t * margins
    kappa = 1 - 0.6 * t
    expected = kappa * F.cross_entropy(model(x), y) + (1 - kappa) * F.cross_entropy(-margins, y)
    found = objective(model, x, y, epoch).loss
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_training_certifies_what_plain_training_does_not(method: str) -> None:
    x, y = batch()
    shares = []
    certified_objective = Certified(THREAT, method=method, warmup=20.0)  # type: ignore[arg-type]
    for objective in (Natural(), certified_objective):
        model = network(64)
        spec = OptimizerSpec(lr=0.2, weight_decay=0.0)
        train(model, [(x, y)] * 4, objective, optimizer=spec, epochs=40)
        shares.append(float(certified(model, x, y, THREAT, method="ibp").float().mean()))
    assert shares[1] > max(0.9, shares[0])


def test_a_certified_scratch_ticket() -> None:
    x, y = batch()
    model = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2))
    ticket = find_scratch_ticket(
        model,
        [(x[:30], y[:30]), (x[30:], y[30:])],
        density=0.3,
        objective=Certified(THREAT, method="crown-ibp", warmup=20.0),
        epochs=40,
        optimizer=OptimizerSpec(lr=0.5),
        quiet=True,
    )
    share = float(certified(ticket.model, x, y, THREAT, method="crown").float().mean())
    assert share > 0.8
    assert (ticket.history[-1].robust or 0.0) <= 1.0


def test_a_wrapped_model_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def counted(model: nn.Module) -> BoundGraph:
        traced.append(model)
        return trace(model)

    monkeypatch.setattr("robustprune.minmax.certified.trace", counted)
    plain, (x, y) = network(), batch()
    expected = Certified(THREAT, warmup=0.0)(plain, x, y, 1.0).loss
    wrapped, objective = nn.DataParallel(network()), Certified(THREAT, warmup=0.0)
    for _ in range(3):
        assert torch.equal(objective(wrapped, x, y, 1.0).loss, expected)
    assert len(traced) == 2


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown method 'crown'; choose ibp or crown-ibp"):
        Certified(THREAT, method="crown", warmup=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kappa=2 must lie in"):
        Certified(THREAT, warmup=1.0, kappa=2)
