"""No evaluation of any network in its own precision is outside its bounds."""

import random
from fractions import Fraction

import pytest
import torch
from bounds_fuzz import evaluations, points_of, random_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks import ThreatModel
from attacks.network import NotFinite
from robustprune.bounds import METHODS, certified_radius, forward, margin_bounds, output_bounds

DTYPES = [torch.float32, torch.float64]


def below(bound, left, right):
    """bound ≤ left − right for floats, without rounding."""
    if bound == -torch.inf:
        return True
    if not all(torch.isfinite(torch.tensor([left, right]))):
        return False
    return Fraction(bound) <= Fraction(left) - Fraction(right)


def check(seed, dtype, count=8):
    """One network, three inputs, so many points each; returns how many triples were checked."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        # whether bounds are carried forward although the input is not small
        patch.setattr(forward, "ENTRIES", rng.choice([0, 8]))
        return _check(seed, dtype, count, rng)


def _check(seed, dtype, count, rng):
    model, x, eps = random_case(rng, dtype)
    x_bounds = rng.choice([None, None, (float(x.min()) - 0.1, float(x.max()) + 0.1)])
    threat = ThreatModel(rng.choice(["linf", "l2", "l1"]), eps, x_bounds)
    with torch.no_grad():
        logits = model(x.clone())
    y = logits.nan_to_num().argmax(1)
    method = rng.choice(METHODS)
    margins = margin_bounds(model, x, y, threat, method=method, steps=2)
    lower, upper = output_bounds(model, x, threat, method=method, steps=1)
    points = points_of(model, x, y, threat, rng, count)
    case = f"seed {seed}, {dtype}, {method}, {threat}, {model}"
    for how, out in evaluations(model, points, rng):
        out = out.double()
        finite = out.isfinite()
        inside = finite & (lower <= out) & (out <= upper)
        assert bool((inside | (lower.isinf() & upper.isinf())).all()), f"{how}: {case}"
        own = out.gather(2, y.expand(len(out), -1)[:, :, None])
        # a difference rounded in float64 may look smaller: then without rounding
        doubtful = ~((own - out) >= margins.where(margins != torch.inf, -torch.inf))
        for p, i, j in doubtful.nonzero().tolist():
            if j == y[i]:
                continue
            bound, left, right = margins[i, j].item(), own[p, i, 0].item(), out[p, i, j].item()
            assert below(bound, left, right), f"{how}, class {j}: {case}"
    return points.shape[0] * points.shape[1], int((margins.amin(1) > -torch.inf).sum())


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_no_evaluation_is_outside(seed, dtype):
    check(seed, dtype)


def test_most_of_these_networks_have_finite_bounds():
    found = [check(seed, torch.float32, count=1)[1] for seed in range(30)]
    assert sum(found) > 40  # of 90 examples; the others may overflow


@settings(max_examples=6)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_evaluation_within_a_radius_is_wrong(seed, dtype):
    check_radius(seed, dtype)


def check_radius(seed, dtype, count=8):
    """No point within a certified radius has another answer, whatever the search reuses."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model, x, eps = random_case(rng, dtype)
    with torch.no_grad():
        y = model(x.clone()).nan_to_num().argmax(1)
    norm, method = rng.choice(["linf", "l2", "l1"]), rng.choice(METHODS[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "ENTRIES", rng.choice([0, 8]))
        try:
            radius = certified_radius(
                model, x, y, norm=norm, method=method, eps_max=100 * eps, steps=2, rounds=6
            )
        except (NotFinite, RuntimeError):  # the first trial needs a gradient
            return 0, 0
    sure = radius > 0
    if not bool(sure.any()):
        return 0, 0
    x, y, radius = x[sure], y[sure], radius[sure]
    for row in range(len(x)):
        threat = ThreatModel(norm, float(radius[row]))
        own = slice(row, row + 1)
        points = points_of(model, x[own], y[own], threat, rng, count)
        for how, out in evaluations(model, points, rng):
            answers = out.argmax(2)
            assert bool((answers == y[own]).all()), f"{how}: seed {seed}, {dtype}, {method}, {norm}"
    return count * len(x), len(x)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_violation_in_a_hundred_thousand(dtype):
    """(network, input, perturbation), each evaluated in five ways."""
    seed = triples = 0
    while triples < 100_000:
        triples += check(seed, dtype)[0] + check_radius(seed, dtype)[0]
        seed += 1


def exact(model, point):
    """Logits of linear layers and ReLUs without any rounding."""
    z = [Fraction(v) for v in point]
    for layer in model:
        if isinstance(layer, nn.ReLU):
            z = [max(v, Fraction(0)) for v in z]
        else:
            rows, bias = layer.weight.tolist(), layer.bias.tolist()
            z = [
                sum((Fraction(w) * v for w, v in zip(row, z, strict=True)), Fraction(b))
                for row, b in zip(rows, bias, strict=True)
            ]
    return z


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_numbers_are_inside_too(seed, dtype):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    low, high = (-44, 37) if dtype == torch.float32 else (-320, 300)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model = model.to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            exponent = rng.choice([0, 0, 0, rng.uniform(low, high)])
            parameter.copy_((parameter.double() * 10.0**exponent).to(dtype))
    x, eps = torch.rand(1, 2, dtype=dtype), 10.0 ** rng.uniform(-6, 0)
    method = rng.choice(METHODS)
    lower, upper = output_bounds(model, x, ThreatModel("linf", eps), method=method, steps=1)
    if not bool(lower.isfinite().all()):
        return
    for signs in ((0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        point = [Fraction(v) + s * Fraction(eps) for v, s in zip(x[0].tolist(), signs, strict=True)]
        for j, logit in enumerate(exact(model, point)):
            assert Fraction(lower[0, j].item()) <= logit <= Fraction(upper[0, j].item()), method
