"""Curves: their lines on dense grids, and the network's own values in every precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from attacks import ThreatModel
from robustprune.bounds import crown_ibp_margins, formulas, margin_bounds, output_bounds
from robustprune.bounds.algebra import Interval
from robustprune.bounds.precision import Precision

#: each curve, and the function of torch that it encloses
CURVES = {
    "gelu": (formulas.gelu(), F.gelu),
    "gelu, tanh": (formulas.gelu("tanh"), lambda z: F.gelu(z, approximate="tanh")),
    "silu": (formulas.silu(), F.silu),
    "mish": (formulas.mish(), F.mish),
    "hardswish": (formulas.hardswish(), F.hardswish),
    "hardsigmoid": (formulas.hardsigmoid(), F.hardsigmoid),
    "relu6": (formulas.clip(0.0, 6.0), F.relu6),
    "hardtanh": (formulas.clip(-0.3, 1.7), lambda z: F.hardtanh(z, -0.3, 1.7)),
    "clamp from below": (formulas.clip(-1.0, math.inf), lambda z: z.clamp(min=-1.0)),
    "clamp from above": (formulas.clip(-math.inf, 0.1), lambda z: z.clamp_max(0.1)),
    "elu": (formulas.elu(1.0), F.elu),
    "elu, 2": (formulas.elu(2.0), lambda z: F.elu(z, 2.0)),
    "square": (formulas.square(), torch.square),
    "abs": (formulas.magnitude(), torch.abs),
    "exp": (formulas.exponential(), torch.exp),
    "reciprocal": (formulas.reciprocal(1.0, 8.0), torch.reciprocal),
}


def boxes(name, seed, count=100):
    generator = torch.Generator().manual_seed(seed)
    radius = 10 ** (torch.rand(count, generator=generator).double() * 5 - 3)
    middle = torch.randn(count, generator=generator).double() * radius.clamp(min=1.0) * 2
    if name == "reciprocal":
        middle = middle.abs() + 1 + radius
    if name == "exp":
        middle, radius = middle.clamp(-5, 3), radius.clamp(max=4)
    return middle - radius, middle + radius


def envelope(z, values, sign):
    """The height of the best line above (1) or below (−1) at the middle of z, by brute force: the
    concave hull of the points."""
    hull = []
    for point in zip(z, sign * values, strict=True):
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (point[0] - x0) > (point[1] - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append(point)
    return sign * np.interp((z[0] + z[-1]) / 2, *zip(*hull, strict=True))


@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("name", CURVES)
def test_lines_enclose_a_dense_grid_and_are_the_best(name, seed):
    curve, _ = CURVES[name]
    lo, hi = boxes(name, seed)
    lines = curve.relax(Interval(lo[None], hi[None]))
    z = lo[:, None] + (hi - lo)[:, None] * torch.linspace(0, 1, 2001).double()
    values = curve.value(z)
    slopes = (lines.lower_slope, lines.upper_slope)
    below, above = (
        slope[0, 0][:, None] * z + shift[0, 0][:, None]
        for slope, shift in zip(slopes, (lines.lower_shift, lines.upper_shift), strict=True)
    )
    assert bool((below <= values).all())
    assert bool((values <= above).all())
    for i in range(0, len(lo), 10):
        size = float(hi[i] - lo[i]) * (1 + float(torch.stack(slopes)[:, 0, 0, i].abs().amax()))
        for sign, line in ((-1, below), (1, above)):
            best = envelope(z[i].numpy(), values[i].numpy(), sign)
            assert sign * (float(line[i, 1000]) - best) <= 1e-3 * size
    interval = curve.interval(Interval(lo[None], hi[None]), gamma=1e-12)
    assert bool((interval.lo[0] <= values.amin(1)).all())
    assert bool((interval.hi[0] >= values.amax(1)).all())
    own, width = values.amax(1) - values.amin(1), interval.hi[0] - interval.lo[0]
    assert bool((width <= 1.01 * own + 1e-12 * (1 + lo.abs())).all())


@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("name", CURVES)
def test_lines_of_any_slope_enclose_the_curve(name, seed):
    curve, _ = CURVES[name]
    lo, hi = boxes(name, seed)
    choice = torch.randn(1, 5, len(lo), 2, generator=torch.Generator().manual_seed(seed)).double()
    lines = curve.relax(Interval(lo[None], hi[None]), choice * 2)
    z = lo[:, None] + (hi - lo)[:, None] * torch.linspace(0, 1, 501).double()
    values = curve.value(z)
    below = lines.lower_slope[0, ..., None] * z + lines.lower_shift[0, ..., None]
    above = lines.upper_slope[0, ..., None] * z + lines.upper_shift[0, ..., None]
    assert bool(((below <= values) & (values <= above)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CURVES)
def test_the_networks_own_values_are_within_the_assumed_errors(name, dtype):
    curve, function = CURVES[name]
    generator = torch.Generator().manual_seed(0)
    z = torch.cat([torch.randn(3000, generator=generator) * s for s in (1e-4, 0.3, 2, 9)])
    z = torch.cat((z, torch.tensor([-3e4, -90.0, -88.7, -40.0, -12.0, 12.0, 90.0, 3e4]))).to(dtype)
    if name == "reciprocal":
        z = z.abs() + 1
    if name == "exp":
        z = z.clamp(-8, 8)
    point = Interval(z.double()[None], z.double()[None])
    box = curve.interval(point, gamma=1e-12)
    error = curve.deviation(Precision.of(dtype), [point], box, None)
    if error is not None:
        box = Interval(box.lo - error, box.hi + error)
    own = function(z).double()
    assert bool(((box.lo[0] <= own) & (own <= box.hi[0]) | box.hi[0].isinf()).all())


def by_hand(z, name):
    """Other ways to compute a curve in the precision of z."""
    if name == "gelu":
        yield 0.5 * z * (1 + torch.erf(z * 0.7071067811865476))
        yield z * (0.5 + 0.5 * torch.erf(z / 1.4142135623730951))
    if name == "gelu, tanh":
        yield 0.5 * z * (1 + torch.tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)))
    if name == "silu":
        yield z / (1 + torch.exp(-z))
    if name == "mish":
        yield z * torch.tanh(torch.log(1 + torch.exp(z)))
    if name == "hardswish":
        yield z * (z + 3).clamp(0, 6) / 6
        yield z * (z / 6 + 0.5).clamp(0, 1)
    if name == "hardsigmoid":
        yield (z * (1 / 6) + 0.5).clamp(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gelu", "gelu, tanh", "silu", "mish", "hardswish", "hardsigmoid"])
def test_other_ways_to_compute_a_curve_are_covered(name, dtype):
    curve, _ = CURVES[name]
    z = torch.linspace(-20, 20, 4001).to(dtype)
    point = Interval(z.double()[None], z.double()[None])
    box = curve.interval(point, gamma=1e-12)
    error = curve.deviation(Precision.of(dtype), [point], box, None)
    for own in by_hand(z, name):
        assert bool(((own.double() - curve.value(z.double())).abs() <= error[0]).all())


@pytest.mark.parametrize("name", CURVES)
def test_gradients_of_training_bounds_are_right(name):
    """They pass through the lines, whose slopes depend on the weights as well."""
    function = CURVES[name][1] if name != "reciprocal" else F.gelu
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), Calls(function), nn.Linear(5, 2)).double()
    x, y = torch.randn(4, 3).double(), torch.tensor([0, 1, 0, 1])
    weight = model[0].weight

    def loss():
        return F.cross_entropy(-crown_ibp_margins(model, x, y, ThreatModel("linf", 0.2)), y)

    loss().backward()
    direction, values = torch.randn(weight.shape).double(), []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * 1e-5 * direction
            values.append(loss().item())
            weight -= sign * 1e-5 * direction
    slope = (values[0] - values[1]) / 2e-5
    assert slope == pytest.approx((weight.grad * direction).sum().item(), rel=2e-2, abs=2e-3)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_values_that_overflow_on_the_way_prove_nothing():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Hardswish(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[2].weight.copy_(torch.eye(2))
    x, y = torch.tensor([[1e38], [1e37]]), torch.tensor([0, 0])
    assert model(x)[0, 0].isinf()  # z (z + 3) is, although z is not
    bound = margin_bounds(model, x, y, ThreatModel("linf", 1.0))
    assert bound[0, 1] == -torch.inf
    assert bound[1, 1] > 9e36


def test_limits_that_are_no_number_of_the_format():
    model = nn.Sequential(nn.Hardtanh(-0.1, 0.1), nn.Linear(1, 2, bias=False)).bfloat16()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    x = torch.tensor([[5.0]], dtype=torch.bfloat16)
    lower, upper = output_bounds(model, x, ThreatModel("linf", 0.0))
    assert model(x)[0, 0].double() != 0.1
    assert lower[0, 0] <= model(x)[0, 0].double() <= upper[0, 0]
