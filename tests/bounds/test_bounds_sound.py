"""Bounds hold for sampled and attacked points, and better methods are not worse."""

import random

import pytest
import torch
from bounds_nets import NETS, random_net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks import APGD, PGD, ThreatModel
from robustprune.bounds import METHODS, linear, margin_bounds, output_bounds

RADIUS = {"linf": 0.08, "l2": 0.3, "l1": 0.6}


def others_lead(model, x, y):
    logits = model(x)
    return logits.gather(1, y[:, None]) - logits


def check_bounds(name, seed, threat):
    """All methods on one network, against points of the ball; returns the number of pairs."""
    model, x, y = random_net(name, seed)
    found = [threat.random_start(x) for _ in range(30)]
    found.append(PGD(threat, steps=10, loss="margin")(model, x, y))
    margins = torch.stack([others_lead(model, point, y) for point in found]).amin(0)
    logits = torch.stack([model(point) for point in found])
    worse = None
    for method in METHODS:
        bound = margin_bounds(model, x, y, threat, method=method, steps=3)
        own = bound.isinf()
        assert bool((own.nonzero()[:, 1] == y).all()), own
        assert bool((bound.where(~own, 0.0) <= margins).all()), method
        if worse is not None:
            assert bool((bound >= worse - 1e-12).all()), method
        worse = bound
        lower, upper = output_bounds(model, x, threat, method=method, steps=1)
        assert bool(((lower <= logits) & (logits <= upper)).all()), method
    return len(x) * len(found)


@settings(max_examples=4)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(sorted(RADIUS)),
    bounds=st.sampled_from([None, (0.0, 1.0)]),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
)
@pytest.mark.parametrize("name", sorted(NETS))
def test_bounds_hold_and_are_ordered(name, seed, norm, bounds, scale):
    check_bounds(name, seed, ThreatModel(norm, RADIUS[norm] * scale, bounds))


@pytest.mark.slow
def test_no_violation_in_many_triples():
    """(network, input, perturbation), those of attacks among them, over eight decades of ε."""
    rng, triples = random.Random(0), 0
    while triples < 50_000:
        norm, name = rng.choice(sorted(RADIUS)), rng.choice(sorted(NETS))
        eps = RADIUS[norm] * 10 ** rng.uniform(-7, 1)
        threat = ThreatModel(norm, eps, rng.choice([None, (0.0, 1.0)]))
        triples += check_bounds(name, rng.randrange(10**6), threat)


@pytest.mark.parametrize("name", ["fcn", "lenet", "mlp"])
def test_certified_margins_lie_below_apgd(name):
    model, x, y = random_net(name, 3, examples=8)
    threat = ThreatModel("linf", 0.05)
    x_adv = APGD(threat, steps=20, loss="margin")(model, x, y)
    gap = others_lead(model, x_adv, y) - margin_bounds(model, x, y, threat)
    assert bool((gap.isinf() | (gap >= 0)).all())


@pytest.mark.parametrize("norm", sorted(RADIUS))
def test_tightness_grows_with_the_method(norm):
    model, x, y = random_net("mlp", 1, examples=16)
    threat = ThreatModel(norm, RADIUS[norm])
    means = [
        margin_bounds(model, x, y, threat, method=method).amin(1).mean().item()
        for method in METHODS
    ]
    assert means == sorted(means)
    assert means[1] > means[0] + 1e-3
    assert means[3] > means[2] + 1e-6


def test_bounds_meet_the_logits_at_eps_zero():
    for name in NETS:
        model, x, _ = random_net(name, 5)
        for method in ("ibp", "crown"):
            lower, upper = output_bounds(model, x, ThreatModel("linf", 0.0), method=method)
            torch.testing.assert_close(lower, model(x), rtol=0, atol=1e-8)
            torch.testing.assert_close(upper, model(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_split_batch_gives_the_same(name):
    model, x, y = random_net(name, 7, examples=5)
    threat = ThreatModel("l2", torch.linspace(0.05, 0.3, 5).double())
    whole = margin_bounds(model, x, y, threat)
    torch.testing.assert_close(
        margin_bounds(model, x, y, threat, batch_size=2), whole, rtol=0, atol=1e-11
    )
    one = margin_bounds(model, x[3:4], y[3:4], threat.select(torch.tensor([3])))
    torch.testing.assert_close(one, whole[3:4], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", sorted(NETS))
def test_places_bounded_alone_or_together_get_the_same(name, monkeypatch):
    model, x, y = random_net(name, 9)
    if name == "mlp":  # no places at all; here, windows that lie in the padding altogether
        model = nn.Sequential(
            *(nn.Conv1d(1, 2, 3, padding=4), nn.ReLU(), nn.Conv1d(2, 2, 2, stride=3, padding=5)),
            *(nn.ReLU(), nn.Conv1d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
        ).double()
        x = x[:, None]
        y = model(x).argmax(1)
    for threat in (ThreatModel("linf", 0.05), ThreatModel("l1", 0.4, (0.0, 1.0))):
        bounds = []
        for rows, chunk in ((1, 1), (10**9, 10**9)):
            monkeypatch.setattr(linear, "ROWS", rows)
            monkeypatch.setattr(linear, "CHUNK", chunk)
            bounds.append(margin_bounds(model, x, y, threat))
        torch.testing.assert_close(*bounds, rtol=0, atol=1e-10)
