import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from attacks import ThreatModel
from attacks.geometry import lengths, project_ball, steepest, uniform_in_ball, unit

NORMS = ("linf", "l2", "l1")
SHAPES = [(3, 1), (2, 7), (3, 2, 5), (2, 3, 4, 4), (1, 2, 1, 3, 2)]


def random_case(seed, shape, scale, offset, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(dtype) + offset
    other = x + scale * torch.randn(shape, generator=generator).to(dtype)
    return x, other


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(SHAPES),
    norm=st.sampled_from(NORMS),
    eps=st.floats(0, 30) | st.sampled_from([0.1, 0.3, 8 / 255, 1e-3, 1e-9]),
    scale=st.sampled_from([1e-8, 1e-3, 0.1, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 1.0, -0.3, 100.0, 1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    bounded=st.booleans(),
)
def test_projection_is_inside_ball_and_box_to_the_last_float(
    seed, shape, norm, eps, scale, offset, dtype, bounded
):
    x, other = random_case(seed, shape, scale, offset, dtype)
    bounds = (x.min().item(), x.max().item() + 0.125) if bounded else None
    threat = ThreatModel(norm, eps, bounds)
    out = threat.project(x, other)
    # .item() compares as Python floats: 0.1 is below float32(0.1)
    assert threat.distance(x, out).max().item() <= eps
    if norm == "linf":
        assert (out - x).abs().max().item() <= eps
    if bounds is not None:
        # a bound that the dtype does not have is its nearest number: the 0.1 of float32 is allowed
        lo, hi = (torch.tensor(bound, dtype=torch.float64).to(dtype) for bound in bounds)
        assert bool((out >= lo).all() and (out <= hi).all())
    assert torch.equal(threat.project(x, out), out)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(SHAPES),
    norm=st.sampled_from(NORMS),
    eps=st.floats(0, 10),
    bounded=st.booleans(),
)
def test_projection_is_non_expansive(seed, shape, norm, eps, bounded):
    x, a = random_case(seed, shape, 2.0, 0.0, torch.float64)
    b = a + 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)).double()
    threat = ThreatModel(norm, eps, (-4.0, 4.0) if bounded else None)
    x = threat.project(x, x).clamp(-4, 4)
    shrunk = lengths(threat.project(x, a) - threat.project(x, b), "l2")
    assert (shrunk <= lengths(a - b, "l2") * (1 + 1e-9) + 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS), eps=st.floats(1e-3, 5))
def test_ball_projection_is_the_nearest_point(seed, norm, eps):
    """The variational inequality ⟨δ − P(δ), v − P(δ)⟩ ≤ 0 for all v in the ball."""
    delta, _ = random_case(seed, (4, 6), 1.0, 0.0, torch.float64)
    delta = delta * 3
    point = project_ball(delta, norm, eps)
    inside = uniform_in_ball(delta, norm, eps, torch.Generator().manual_seed(seed))
    vertex = eps * steepest(delta - point, norm, fraction=1e-9)
    for v in (inside, vertex):
        assert (((delta - point) * (v - point)).sum(1) <= 1e-9).all()


def test_l1_projection_by_hand():
    delta = torch.tensor([[3.0, -1.0, 0.5], [0.2, 0.1, 0.0]])
    expected = torch.tensor([[2.0, 0.0, 0.0], [0.2, 0.1, 0.0]])
    assert torch.equal(project_ball(delta, "l1", 2.0), expected)
    assert torch.allclose(
        project_ball(torch.tensor([[2.0, -1.0]]), "l1", 2.0), torch.tensor([[1.5, -0.5]])
    )


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_fills_the_ball(norm):
    x = torch.zeros(4000, 3)
    threat = ThreatModel(norm, 0.5)
    start = threat.random_start(x, torch.Generator().manual_seed(0))
    radius = threat.distance(x, start)
    assert radius.max().item() <= 0.5
    # uniform in volume: P(radius <= t eps) = t^3, and both signs are alike
    for t in (0.5, 0.8):
        assert (radius <= t * 0.5).float().mean().item() == pytest.approx(t**3, abs=0.03)
    assert start.mean(0).abs().max().item() < 0.02


@pytest.mark.parametrize("norm", NORMS)
def test_step_is_the_steepest_of_its_length(norm):
    _, grad = random_case(3, (5, 2, 4), 1.0, 0.0, torch.float64)
    step = ThreatModel(norm, 1.0).step(grad, 0.7)
    assert torch.allclose(lengths(step, norm), torch.full((5,), 0.7, dtype=torch.float64))
    dual = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]
    assert torch.allclose((step * grad).flatten(1).sum(1), 0.7 * lengths(grad, dual))


def test_tiny_and_zero_gradients_have_a_direction_or_none():
    grad = torch.zeros(2, 3)
    grad[0, 1] = 1e-30  # its square underflows
    assert torch.equal(unit(grad, "l2"), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_one_radius_per_example():
    x = torch.zeros(3, 2, 2)
    threat = ThreatModel("linf", torch.tensor([0.0, 0.1, 0.2]))
    out = threat.project(x, x + 1)
    assert torch.allclose(out.amax((1, 2)), torch.tensor([0.0, 0.1, 0.2]))
    assert torch.equal(threat.select(torch.tensor([2])).project(x[:1], x[:1] + 1), out[2:])


def test_bounds_per_channel_and_per_entry():
    x = torch.zeros(2, 3, 4)
    hi = torch.tensor([0.1, 0.2, 0.3])
    out = ThreatModel("linf", 1.0, (-1.0, hi)).project(x, x + 1)
    assert torch.equal(out, hi[None, :, None].expand(2, 3, 4))
    out = ThreatModel("l2", 9.0, (-1.0, torch.full((1, 4), 0.25))).project(x, x + 1)
    assert torch.equal(out, torch.full_like(x, 0.25))
    with pytest.raises(ValueError, match=r"bounds of shape \(5,\)"):
        ThreatModel("linf", 1.0, (-1.0, torch.ones(5))).project(x, x)


@pytest.mark.parametrize("norm", NORMS)
def test_an_input_outside_the_bounds_is_never_moved_further_than_eps(norm):
    x = torch.full((1, 3), 2.5)
    threat = ThreatModel(norm, 0.1, (0.0, 1.0))
    assert threat.distance(x, threat.project(x, x - 2)).max().item() <= 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_support_limits_where_it_may_change(norm):
    x = torch.randn(2, 3, 4)
    allowed = torch.tensor([True, False, True])[None, :, None]
    threat = ThreatModel(norm, 1.0, support=lambda clean: allowed)
    moved = threat.project(x, x + 1) != x
    assert moved[:, [0, 2]].any()
    assert not moved[:, 1].any()
    assert threat.random_start(x)[:, 1].equal(x[:, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l3", "eps": 1.0}, "norm='l3'"),
        ({"norm": "l2", "eps": -1.0}, r"eps=-1\.0"),
        ({"norm": "l2", "eps": math.nan}, "eps=nan"),
        ({"norm": "l2", "eps": torch.tensor([1.0, -1.0])}, "eps="),
        ({"norm": "l2", "eps": 1.0, "bounds": (1.0, 0.0)}, "lo < hi"),
        ({"norm": "l2", "eps": 1.0, "bounds": (0.0, 1.0, 2.0)}, "None or"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(**arguments)
