"""FreeLB and SMART's smoothness against what they are defined as."""

import torch
from torch import nn
from torch.nn import functional as F

from attacks import PGD, ThreatModel
from robustprune.minmax import FreeLB, OptimizerSpec, Trades
from robustprune.minmax.objectives import divergence

THREAT = ThreatModel("l2", 0.5)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 0, 1])


def test_freelb_is_the_mean_loss_over_the_ascent() -> None:
    model, (x, y) = network(), batch()
    attack = PGD(THREAT, steps=3, step_size=0.2, random_start=False)
    result = FreeLB(attack)(model, x, y, 1.0)
    result.loss.backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    point, losses = x, []
    for _ in range(3):
        at = point.detach().requires_grad_()
        losses.append(F.cross_entropy(model(at), y))
        (grad,) = torch.autograd.grad(losses[-1], at, retain_graph=True)
        point = THREAT.project(x, at + 0.2 * grad / grad.norm(dim=1, keepdim=True))
    mean = torch.stack(losses).mean()
    mean.backward()
    torch.testing.assert_close(result.loss, mean)
    for one, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_freelb_with_one_step_and_no_start_is_the_clean_loss() -> None:
    model, (x, y) = network(), batch()
    result = FreeLB(PGD(THREAT, steps=1, random_start=False))(model, x, y, 1.0)
    torch.testing.assert_close(result.loss, F.cross_entropy(model(x), y))


def test_smart_counts_both_divergences() -> None:
    model, (x, y) = network(), batch()
    attack = PGD(THREAT, steps=2, seed=0)
    clean = model(x)
    loss = Trades(attack, beta=2.0, symmetric=True)(model, x, y, 1.0).loss

    def both(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return divergence(clean.detach(), logits) + divergence(logits, clean.detach())

    attacked = model(PGD(THREAT, steps=2, seed=0, loss=both)(model, x, y))
    torch.testing.assert_close(loss, F.cross_entropy(clean, y) + 2.0 * both(attacked, y).mean())


def test_adamw_and_the_linear_schedule() -> None:
    spec = OptimizerSpec(name="adamw", lr=0.1, weight_decay=0.5, schedule="linear")
    weight = nn.Parameter(torch.ones(1))
    optimizer = spec.build([weight])
    weight.grad = torch.zeros(1)
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([1 - 0.1 * 0.5]))
    assert spec.lr_at(0.0, 4) == 0.1
    assert spec.lr_at(1.0, 4) == 0.1 * 0.75
    assert spec.lr_at(4.0, 4) == 0.0
