"""Differentiable margins: values, gradients, batch norm, and that training with them certifies."""

import pytest
import torch
from bounds_nets import NETS, random_net
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from attacks import ThreatModel
from robustprune.bounds import (
    certified,
    crown_ibp_margins,
    interval_margins,
    margin_bounds,
    trace,
)
from robustprune.sparsity import computed_once, maskable_layers


class Scored(nn.Module):
    """Keep the weights with positive scores; the gradient passes straight through to the scores."""

    def __init__(self, weight):
        super().__init__()
        self.score = nn.Parameter(torch.randn(weight.shape).to(weight))

    def forward(self, weight):
        return weight * ((self.score > 0).to(weight) + self.score - self.score.detach())


MARGINS = {"ibp": interval_margins, "crown-ibp": crown_ibp_margins}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_they_are_the_certified_margins_up_to_rounding(name, norm):
    model, x, y = random_net(name, 6)
    threat = ThreatModel(norm, 0.03)
    ibp = margin_bounds(model, x, y, threat, method="ibp").scatter(1, y[:, None], 0.0)
    torch.testing.assert_close(interval_margins(model, x, y, threat), ibp, rtol=0, atol=1e-8)
    best = margin_bounds(model, x, y, threat, method="crown-ibp").scatter(1, y[:, None], 0.0)
    crown = torch.maximum(crown_ibp_margins(model, x, y, threat), ibp)
    torch.testing.assert_close(crown, best, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", MARGINS)
@pytest.mark.parametrize("name", ["mlp", "residual", "lenet", "fcn"])
def test_gradients_are_right(name, method):
    model, x, y = random_net(name, 8)
    threat = ThreatModel("linf", 0.02)
    weight = next(iter(model.parameters()))

    def loss():
        return F.cross_entropy(-MARGINS[method](model, x, y, threat), y)

    loss().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double()
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
            values.append(loss().item())
            weight -= sign * step * direction
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx((weight.grad * direction).sum().item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", MARGINS)
def test_gradients_reach_the_scores_of_a_mask(method):
    model, x, y = random_net("fcn", 0, examples=4)
    torch.manual_seed(0)
    model, x = model.float().requires_grad_(False), x.float()
    scored = {}
    for layer in maskable_layers(model).values():
        scored[layer] = Scored(layer.weight)
        parametrize.register_parametrization(layer, "weight", scored[layer])
    with computed_once(model):
        margins = MARGINS[method](trace(model), x, y, ThreatModel("linf", 0.01))
        F.cross_entropy(-margins, y).backward()
    assert margins.dtype == torch.float32
    assert all(bool(mask.score.grad.abs().sum() > 0) for mask in scored.values())


def test_batch_norm_in_train_mode_takes_the_clean_batch():
    model, x, y = random_net("residual", 1, examples=6)
    model.train()
    threat = ThreatModel("linf", 0.0)
    stats = model.norm.running_mean.clone()
    got = interval_margins(model, x, y, threat)
    assert torch.equal(model.norm.running_mean, stats)
    logits = model(x)
    torch.testing.assert_close(got, logits.gather(1, y[:, None]) - logits)
    assert not torch.equal(model.norm.running_mean, stats)
    model.norm.eval()
    logits = model(x)
    torch.testing.assert_close(
        interval_margins(model, x, y, threat), logits.gather(1, y[:, None]) - logits
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("method", MARGINS)
def test_batch_norm_of_any_dimension_takes_the_whole_batch(method, dims):
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](1, 3, 2)
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](3)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(3 * 2**dims, 3)).double()
    x, y = torch.rand(8, 1, *(3,) * dims).double(), torch.arange(8) % 3
    logits = model(x)
    got = MARGINS[method](model, x, y, ThreatModel("linf", 0.0))
    torch.testing.assert_close(got, logits.gather(1, y[:, None]) - logits)


@pytest.mark.parametrize("method", MARGINS)
def test_training_with_them_certifies_more(method):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    x = torch.randn(60, 4, generator=generator) * 0.3
    x[:, 0] += y - 0.5
    threat, shares = ThreatModel("linf", 0.15), []
    for robust in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
            model.append(nn.Linear(32, 2))
        graph = trace(model)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60):
            logits = -MARGINS[method](graph, x, y, threat) if robust else model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
        shares.append(certified(model, x, y, threat, method=method).double().mean().item())
    assert shares[1] > shares[0] + 0.1
