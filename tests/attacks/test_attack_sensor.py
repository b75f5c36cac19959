"""Band-limited perturbations: inside ball and band, and the worst case where it is known."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linprog

from attacks import APGD, PGD, BandLimited, Square, ThreatModel
from attacks.sensor import band_dimension, in_band
from robustprune.minmax.free import Free


def fourier_matrix(steps, low, high):
    """The projection on frequencies low..high from sines and cosines, without an FFT."""
    time = torch.arange(steps, dtype=torch.float64)
    waves = []
    for k in range(low, high + 1):
        angle = 2 * torch.pi * k * time / steps
        waves += [angle.cos(), angle.sin()]
    basis = torch.stack([w / w.norm() for w in waves if w.norm() > 1e-6])
    return basis.T @ basis, len(basis)


bands = st.sampled_from([(1, 0, 0), (6, 1, 2), (6, 0, 3), (7, 3, 3), (9, 0, 4), (12, 6, 6)])


@given(band=bands)
@settings(max_examples=10)
def test_the_band_projection_is_the_one_on_sines_and_cosines(band):
    steps, low, high = band
    matrix, dimension = fourier_matrix(steps, low, high)
    x = torch.randn(2, 3, steps, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(in_band(x, low, high), x @ matrix, atol=1e-12, rtol=0)
    assert band_dimension(steps, low, high) == dimension


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    band=bands,
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(0, 30) | st.sampled_from([0.1, 0.3, 1e-3]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, -0.3, 100.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_projection_is_inside_ball_and_band_and_idempotent(
    seed, band, norm, eps, scale, offset, dtype
):
    steps, low, high = band
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, steps, generator=generator).to(dtype) + offset
    far = x + scale * torch.randn(3, 2, steps, generator=generator).to(dtype)
    threat = BandLimited(norm, eps, low=low, high=high)
    # x' is rounded to its last digit, and so is what an FFT adds up
    rounding = 16 * torch.finfo(dtype).eps * (x.abs().max() + eps).item()
    for out in (threat.project(x, far), threat.random_start(x, generator)):
        assert threat.distance(x, out).max().item() <= eps
        delta = out - x
        assert (delta - in_band(delta, low, high)).abs().max() <= rounding
        assert (threat.project(x, out) - out).abs().max() <= rounding


def test_l2_projection_is_the_nearest_point_of_the_intersection():
    """⟨z − P(z), v − P(z)⟩ ≤ 0 for all v in it, of which the random starts are some."""
    threat = BandLimited("l2", 0.5, low=2, high=4)
    x = torch.zeros(64, 1, 12, dtype=torch.float64)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    point = threat.project(x, z)
    v = threat.random_start(x, torch.Generator().manual_seed(1))
    outward = (z - point).flatten(1)
    products = outward @ v.flatten(1).T - (outward * point.flatten(1)).sum(1, keepdim=True)
    assert products.max() <= 1e-9


def test_random_starts_are_uniform_in_the_ball_of_the_band():
    threat = BandLimited("l2", 2.0, low=0, high=1)  # of dimension 3: E r = 3/4 · 2
    x = torch.zeros(4000, 1, 8, dtype=torch.float64)
    start = threat.random_start(x, torch.Generator().manual_seed(0))
    length = threat.distance(x, start)
    assert abs(length.mean().item() - 1.5) < 0.03
    assert start.mean(0).abs().max() < 0.05


def two_classes(steps, seed=0):
    """f(x) = ±⟨g, x⟩/2 on (N, 2, L): (model, g), with class 1 up along g."""
    g = torch.randn(2, steps, generator=torch.Generator().manual_seed(seed)).double()

    def model(x):
        score = (x * g).sum((1, 2)) / 2
        return torch.stack((-score, score), 1)

    return model, g


@pytest.mark.parametrize(("attack", "options"), [(PGD, {"relative_step": 10.0}), (APGD, {})])
def test_attacks_reach_the_worst_case_of_a_linear_model_in_l2(attack, options):
    """max ⟨g, δ⟩ over ‖δ‖₂ ≤ ε in the band is ε ‖P g‖₂."""
    model, g = two_classes(20)
    threat = BandLimited("l2", torch.tensor([0.1, 0.4]).double(), low=2, high=5)
    x = -100 * g.expand(2, -1, -1) / g.norm() ** 2  # far from the boundary: APGD goes on
    attack = attack(threat, steps=30, seed=0, **options)
    delta = attack(model, x, torch.zeros(2, dtype=torch.long)) - x
    best = threat.eps * (g @ fourier_matrix(20, 2, 5)[0]).norm()
    torch.testing.assert_close((delta * g).sum((1, 2)), best, rtol=1e-4, atol=0)


@pytest.mark.parametrize("attack", [PGD, APGD])
def test_attacks_come_near_the_linear_program_in_linf(attack):
    """max ⟨g, δ⟩ over |δ| ≤ ε with δ in the span of the band, channel by channel."""
    steps, low, high, eps = 20, 1, 4, 0.2
    model, g = two_classes(steps)
    values, vectors = np.linalg.eigh(fourier_matrix(steps, low, high)[0].numpy())
    basis = vectors[:, values > 0.5]
    best = 0.0
    for channel in g.numpy():
        limits = np.vstack([basis, -basis])
        solved = linprog(-(basis.T @ channel), limits, np.full(2 * steps, eps), bounds=(None, None))
        best -= solved.fun
    threat = BandLimited("linf", eps, low=low, high=high)
    x = torch.randn(4, 2, steps, generator=torch.Generator().manual_seed(1)).double()
    x = x - 100 * g / g.norm() ** 2
    delta = attack(threat, steps=30, seed=0)(model, x, torch.zeros(4, dtype=torch.long)) - x
    gain = (delta * g).sum((1, 2))
    assert (gain <= best * (1 + 1e-9)).all()
    assert (gain >= 0.85 * best).all()
    # the free L∞ ball holds much more: the band costs the adversary most of it
    assert best < 0.8 * eps * g.abs().sum()


def test_every_attack_at_a_radius_and_free_training_stay_in_the_band():
    model, _ = two_classes(12)
    threat = BandLimited("linf", 0.3, low=1, high=2)
    x = torch.randn(4, 2, 12, generator=torch.Generator().manual_seed(2)).double()
    y = (model(x).argmax(1)).long()
    for attack in (
        PGD(threat, steps=3, restarts=2, early_stop=True, momentum=0.5),
        Square(threat, queries=20, seed=0),
    ):
        delta = attack(model, x, y) - x
        assert (delta - in_band(delta, 1, 2)).abs().max() < 1e-12
        assert delta.abs().max() <= 0.3
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 2)).double()
    objective = Free(threat)
    for _ in range(3):
        objective(network, x, y, 0.0).loss.backward()
    assert objective._last is not None
    clean, carried = objective._last
    moved = carried.detach() - clean
    assert 0 < moved.abs().max() <= 0.3
    assert (moved - in_band(moved, 1, 2)).abs().max() < 1e-12


def test_fields_travel_with_another_eps_and_a_selection():
    threat = BandLimited("l2", torch.tensor([1.0, 2.0]), low=1, high=3)
    chosen = threat.select(torch.tensor([1]))
    assert isinstance(chosen, BandLimited)
    assert chosen.eps.tolist() == [2.0]
    assert (replace(threat, eps=3.0).low, chosen.high) == (1, 3)
    assert isinstance(threat, ThreatModel)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"norm": "l1"}, "norm='l1' has no band-limited threat"),
        ({"bounds": (0.0, 1.0)}, "takes neither bounds nor support"),
        ({"support": torch.isfinite}, "takes neither bounds nor support"),
        ({"low": 3, "high": 2}, r"band 3\.\.2 must be 0 ≤ low ≤ high"),
        ({"rounds": -1}, "rounds=-1 must be at least 0"),
        ({"eps": -1.0}, "must be finite and at least 0"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ValueError, match=match):
        BandLimited(**{"norm": "l2", "eps": 1.0, "low": 0, "high": 1, **options})


def test_a_band_beyond_the_highest_frequency_is_refused():
    threat = BandLimited("l2", 1.0, low=0, high=5)
    x = torch.zeros(1, 1, 9)
    with pytest.raises(ValueError, match=r"band 0\.\.5 does not fit 9 steps; .*≤ high ≤ 4"):
        threat.project(x, x)
