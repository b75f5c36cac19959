"""Affine models, where bounds and radius have a closed form."""

import math

import pytest
import torch
from torch import nn

from attacks import ThreatModel
from robustprune.bounds import METHODS, certified, certified_radius, margin_bounds, output_bounds

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


@pytest.fixture
def affine():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(10, 4)).double()
    x = torch.randn(6, 1, 7).double()
    return model, x, model(x).argmax(1)


def gaps_and_lengths(model, x, y, norm):
    """Margins and ‖∇ margin‖_dual for every class, from autograd, (N, C)."""
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).movedim(1, 0)
    logits, rows = model(x).detach(), torch.arange(len(x))
    normals = (jacobian[rows, y][:, None] - jacobian).flatten(2)
    gaps = logits.gather(1, y[:, None]) - logits
    return gaps, torch.linalg.vector_norm(normals, ord=DUAL[norm], dim=2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", DUAL)
def test_margins_are_exact(affine, norm, method):
    model, x, y = affine
    eps = torch.linspace(0, 0.5, len(x)).double()
    gaps, lengths = gaps_and_lengths(model, x, y, norm)
    exact = (gaps - eps[:, None] * lengths).scatter(1, y[:, None], math.inf)
    got = margin_bounds(model, x, y, ThreatModel(norm, eps), method=method)
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-11)
    if norm == "linf" and method == "ibp":
        assert bool((got <= exact).all())


@pytest.mark.parametrize("norm", DUAL)
def test_radius_is_the_distance_to_the_boundary(affine, norm):
    model, x, y = affine
    gaps, lengths = gaps_and_lengths(model, x, y, norm)
    exact = (gaps / lengths).scatter(1, y[:, None], math.inf).amin(1)
    got = certified_radius(model, x, y, norm=norm, rounds=30, tolerance=1e-7)
    assert bool((got <= exact).all())
    torch.testing.assert_close(got, exact, rtol=1e-6, atol=0)
    assert bool(certified(model, x, y, ThreatModel(norm, got)).all())
    assert not bool(certified(model, x, y, ThreatModel(norm, exact * 1.001)).any())


def test_box_cut_by_bounds_is_exact(affine):
    model, x, _ = affine
    threat = ThreatModel("linf", 0.4, bounds=(-0.5, 0.5))
    x = x.clamp(-0.5, 0.5)
    lo, hi = (x - 0.4).clamp(min=-0.5), (x + 0.4).clamp(max=0.5)
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).movedim(1, 0)
    ends = torch.stack((jacobian * lo[:, None], jacobian * hi[:, None]))
    offset = model(x) - (jacobian * x[:, None]).flatten(2).sum(2)
    lower, upper = output_bounds(model, x, threat)
    torch.testing.assert_close(lower, ends.amin(0).flatten(2).sum(2) + offset)
    torch.testing.assert_close(upper, ends.amax(0).flatten(2).sum(2) + offset)


def test_bounds_help_in_l2_and_l1_where_the_box_is_smaller(affine):
    model, x, y = affine
    x = x.clamp(0, 1)
    for norm in ("l2", "l1"):
        free = margin_bounds(model, x, y, ThreatModel(norm, 50.0))
        cut = margin_bounds(model, x, y, ThreatModel(norm, 50.0, bounds=(0.0, 1.0)))
        box = margin_bounds(model, x, y, ThreatModel("linf", 50.0, bounds=(0.0, 1.0)))
        assert bool((cut >= free).all())
        torch.testing.assert_close(cut, box, rtol=0, atol=1e-10)


def test_entries_without_support_stay(affine):
    model, x, _ = affine

    def right_half(batch):
        return torch.arange(batch.shape[-1]) >= 4

    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).movedim(1, 0)
    reach = torch.linalg.vector_norm(jacobian[..., 4:].flatten(2), dim=2)
    for norm, length in (("l2", reach), ("linf", jacobian[..., 4:].abs().flatten(2).sum(2))):
        lower, _ = output_bounds(model, x, ThreatModel(norm, 0.3, support=right_half))
        torch.testing.assert_close(lower, model(x) - 0.3 * length)


def test_bounds_per_channel():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]]))
        model[1].bias.zero_()
    x = torch.full((1, 2, 2), 0.5).double()
    threat = ThreatModel("linf", 1.0, (torch.tensor([0.0, 0.25]), torch.tensor([1.0, 1.0])))
    assert margin_bounds(model, x, torch.tensor([0]), threat)[0, 1].item() == pytest.approx(0.5)
