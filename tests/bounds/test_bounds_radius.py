"""Certified radii are certified, and lie below every attack."""

import pytest
import torch
from bounds_nets import random_net
from torch import nn

from attacks import ThreatModel, minimal_perturbation
from robustprune.bounds import METHODS, certified, certified_radius, margin_bounds


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", ["mlp", "residual", "lenet"])
def test_no_attack_is_nearer(name, norm):
    model, x, y = random_net(name, 2, examples=6)
    bounds = (0.0, 1.0) if name == "lenet" else None
    radius = certified_radius(model, x, y, norm=norm, bounds=bounds, rounds=8)
    nearest = minimal_perturbation(model, x, y, norm=norm, bounds=bounds, halvings=5).r
    assert bool((radius > 0).all())
    assert bool((radius <= nearest).all())
    assert bool(certified(model, x, y, ThreatModel(norm, radius, bounds)).all())


def test_methods_are_ordered_and_rounds_help():
    model, x, y = random_net("mlp", 4, examples=12)
    means = [certified_radius(model, x, y, method=method).mean().item() for method in METHODS]
    assert means == sorted(means)
    assert means[0] < means[2]
    few, more = (certified_radius(model, x, y, rounds=rounds) for rounds in (3, 9))
    assert bool((few <= more).all())
    assert bool((few < more).any())


def test_misclassified_examples_have_radius_zero():
    model, x, y = random_net("mlp", 0)
    wrong = (y + 1) % 3
    assert certified_radius(model, x, wrong).tolist() == [0, 0, 0]
    assert not bool(certified(model, x, wrong, ThreatModel("linf", 0.0)).any())
    assert bool(certified(model, x, y, ThreatModel("linf", 0.0)).all())


def test_eps_max_and_bounds_limit_the_search():
    model, x, y = random_net("mlp", 0)
    radius = certified_radius(model, x, y, eps_max=1e-3)
    assert radius.tolist() == [1e-3] * 3
    with torch.no_grad():
        model[-1].weight.zero_()  # a constant answer: certified as far as inputs go
        model[-1].bias.copy_(torch.tensor([1.0, 0, 0]))
    y.zero_()
    farthest = torch.maximum(x, 1 - x).amax(1)
    torch.testing.assert_close(certified_radius(model, x, y, bounds=(0.0, 1.0)), farthest)
    assert bool((certified_radius(model, x, y, rounds=6) >= 2.0**5).all())


def test_cascade_agrees_with_the_margins():
    model, x, y = random_net("fcn", 1, examples=10)
    eps = torch.logspace(-3, 2, 10).double()
    threat = ThreatModel("linf", eps)
    for method in METHODS:
        sure = certified(model, x, y, threat, method=method, batch_size=3)
        assert torch.equal(sure, margin_bounds(model, x, y, threat, method=method).amin(1) > 0)
    assert 0 < sure.sum() < 10


@pytest.mark.parametrize("method", ["crown-ibp", "crown"])
def test_every_radius_is_proven_by_itself(method):
    """Although bounds of neurons may be looser on a smaller ball than on a larger one."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
        model += nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
        x = torch.randn(12, 6)
        y = model(x).argmax(1)
        radius = certified_radius(model, x, y, method=method)
        assert bool((radius > 0).all())
        assert bool(certified(model, x, y, ThreatModel("linf", radius), method=method).all())
