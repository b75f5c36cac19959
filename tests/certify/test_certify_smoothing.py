"""Randomised smoothing against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm
from torch import nn

from robustprune.certify import ABSTAIN, certify, predict, smoothing
from robustprune.certify.noise import counting
from robustprune.certify.smoothing import count_votes
from robustprune.measure.statistics import clopper_pearson


class Halves(nn.Module):
    """Two classes on either side of a plane: smoothing it moves nothing."""

    def __init__(self, shape, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(torch.Size(shape).numel(), generator=generator))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        z = self.dropout(x).flatten(1) @ self.weight + 0.3
        return torch.stack((z, -z), 1)

    def distance(self, x):
        with torch.no_grad():
            z = x.flatten(1) @ self.weight + 0.3
            return (z.abs() / self.weight.norm()).double(), (z < 0).long()


def points(shape, n=24, seed=1):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3,), (1, 7), (2, 3, 4)])
def test_the_radius_of_a_linear_classifier(shape):
    """g has f's own boundary, so r* = |z|/‖w‖: never exceeded, and nearly reached."""
    model, x = Halves(shape), points(shape)
    truth, side = model.distance(x)
    result = certify(model, x, sigma=0.5, n=4000, seed=3)
    sure = result.prediction != ABSTAIN
    assert torch.equal(result.prediction[sure], side[sure])
    assert (result.radius <= truth).all()
    assert (result.radius[~sure] == 0).all()
    within = (truth > 0.1) & (truth < 1.0)
    assert within.sum() >= 5
    assert (result.radius[within] > truth[within] - 0.12).all()
    assert model.training  # eval mode (no dropout) inside, its own mode afterwards


def test_more_samples_come_nearer_to_the_limit():
    model, x = Halves((3,)), points((3,))
    truth, _ = model.distance(x)
    kept = (truth > 0.2) & (truth < 1.0)
    gaps = [
        (truth - certify(model, x, sigma=0.5, n=n).radius)[kept].mean() for n in (100, 1000, 10000)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0


def test_the_error_rate_is_what_alpha_says():
    """2000 examples at the same distance, each with its own noise: p_A is too high for ≤ α."""
    model = Halves((2,))
    x = points((2,), n=1).expand(2000, 2)
    truth, _ = model.distance(x)
    wrong = (certify(model, x, sigma=1.0, n=200, alpha=0.05).radius > truth).double().mean()
    assert 0.02 < wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def constant(x):
    return torch.tensor([0.0, 0.0, 1.0]).expand(len(x), 3)


def test_a_constant_classifier_is_limited_by_n_alone():
    result = certify(constant, points((4,)), sigma=0.25, n=500, alpha=0.01)
    assert (result.prediction == 2).all()
    assert (result.hits == 500).all()
    bound = torch.full_like(result.p_lower, 0.01 ** (1 / 500))
    assert torch.allclose(result.p_lower, bound, rtol=1e-12)
    limit = 0.25 * norm.ppf(0.01 ** (1 / 500))
    assert torch.allclose(result.radius, torch.full_like(result.radius, limit), rtol=1e-9)
    assert (predict(constant, points((4,)), sigma=0.25) == 2).all()


def thirds(x):
    """Three sectors of the plane that meet at the origin."""
    angles = torch.tensor([0.0, 2.0, 4.0]) * math.pi / 3
    return x @ torch.stack((angles.cos(), angles.sin()))


def test_it_abstains_where_no_class_has_a_majority_and_gives_up_early():
    result = certify(thirds, torch.zeros(6, 2), sigma=1.0, n=50_000)
    assert (result.prediction == ABSTAIN).all()
    assert (result.radius == 0).all()
    assert (result.p_lower < 0.5).all()
    assert (result.drawn <= 512).all()
    assert (predict(thirds, torch.zeros(6, 2), sigma=1.0) == ABSTAIN).all()


def test_giving_up_early_changes_no_certificate(monkeypatch):
    x = torch.linspace(-1, 1, 40)[:, None] * torch.tensor([1.0, 0.7])
    early = certify(thirds, x, sigma=0.6, n=3000)
    monkeypatch.setattr(smoothing, "_FUTILITY", -1.0)
    full = certify(thirds, x, sigma=0.6, n=3000)
    assert (full.drawn == 3000).all()
    assert (early.drawn < 3000).any()
    assert torch.equal(early.prediction, full.prediction)
    assert torch.equal(early.radius, full.radius)
    assert (early.p_lower <= full.p_lower).all()


def test_results_do_not_depend_on_the_batch_size():
    model, x = Halves((2, 3)), points((2, 3), n=7) * 0.3
    results = [
        certify(model, x, sigma=0.5, n0=30, n=700, batch_size=size) for size in (13, 256, 10**6)
    ]
    for other in results[1:]:
        assert torch.equal(results[0].hits, other.hits)
        assert torch.equal(results[0].drawn, other.drawn)
        assert torch.equal(results[0].prediction, other.prediction)


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    model, x = Halves((2, 3)).eval(), points((2, 3), n=4) * 0.3
    passes = []

    def small_device(inputs: torch.Tensor) -> torch.Tensor:
        passes.append(len(inputs))
        if len(inputs) > 60:
            raise torch.OutOfMemoryError("no room")
        return model(inputs)

    fitted = certify(small_device, x, sigma=0.5, n0=30, n=700)
    assert torch.equal(fitted.hits, certify(model, x, sigma=0.5, n0=30, n=700).hits)
    refused = [size for size in passes if size > 60]
    assert len(refused) <= 2  # what has been found not to fit is not tried again
    assert max(size for size in passes if size <= 60) > 30

    def no_device(inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        certify(no_device, x, sigma=0.5, n=700)


def test_the_seed_decides_and_other_examples_do_not():
    model, x = Halves((3,)), points((3,), n=5) * 0.2
    one = certify(model, x, sigma=0.5, n=600, seed=1)
    assert torch.equal(one.hits, certify(model, x, sigma=0.5, n=600, seed=1).hits)
    assert torch.equal(one.hits[:2], certify(model, x[:2], sigma=0.5, n=600, seed=1).hits)
    assert not torch.equal(one.hits, certify(model, x, sigma=0.5, n=600, seed=2).hits)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    certify(model, x, sigma=0.5, n=50)
    assert torch.equal(before, torch.random.get_rng_state())


def test_estimation_draws_fresh_samples():
    """A classifier of pure noise: reusing the samples of the selection would show as more hits."""
    result = certify(
        lambda x: torch.stack((x[:, 0], -x[:, 0]), 1), torch.zeros(400, 2), sigma=1, n0=10, n=10
    )
    assert abs(result.hits.double().mean() - 5) < 0.3  # with the same samples it would be 6.2


def test_failure_probability_of_a_table():
    x = points((4,), n=8)
    each = certify(constant, x, sigma=1.0, n=100, alpha=0.01)
    assert each.total_failure == pytest.approx(0.08)
    together = certify(constant, x, sigma=1.0, n=100, alpha=0.01, simultaneous=True)
    assert together.alpha == pytest.approx(0.01 / 8)
    assert together.total_failure == pytest.approx(0.01)
    assert (together.radius < each.radius).all()


@pytest.mark.parametrize("n", [1, 10, 37])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_clopper_pearson_covers_exactly(n, alpha):
    """Summed over all outcomes, each bound is beyond p with probability at most α, for every p."""
    hits = np.arange(n + 1)
    lower, upper = clopper_pearson(hits, n, alpha)
    assert (np.diff(lower) > 0).all()
    assert (np.diff(upper) > 0).all()
    for p in np.linspace(0.01, 0.99, 99):
        assert binom.pmf(hits[lower > p], n, p).sum() <= alpha
        assert binom.pmf(hits[upper < p], n, p).sum() <= alpha


@given(st.integers(1, 5000), st.data(), st.floats(1e-6, 0.4))
def test_clopper_pearson_is_the_p_with_a_tail_of_alpha(n, data, alpha):
    k = data.draw(st.integers(1, n))
    lower, upper = clopper_pearson(k, n, alpha)
    assert binom.sf(k - 1, n, lower) == pytest.approx(alpha, rel=1e-6)
    assert k == n or binom.cdf(k, n, upper) == pytest.approx(alpha, rel=1e-6)


def test_predict_is_the_binomial_test():
    model, x = Halves((2,)), points((2,), n=200) * 0.2
    answers = predict(model, x, sigma=0.5, n=200, alpha=0.01)
    truth, side = model.distance(x)
    sure = answers != ABSTAIN
    assert (answers[sure] == side[sure]).double().mean() >= 0.99
    far = truth > 0.3  # p_A = Φ(0.6) = 0.73: the test at n=200 has a power of more than 0.999
    assert sure[far].all()
    assert not sure.all()


def test_an_empty_batch():
    result = certify(constant, torch.zeros(0, 4), sigma=1.0)
    assert result.prediction.shape == result.radius.shape == (0,)
    assert predict(constant, torch.zeros(0, 4), sigma=1.0).shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, r"sigma=0\.0 must be finite and above 0"),
        ({"sigma": math.nan}, "sigma=nan must be finite"),
        ({"alpha": 1.0}, r"alpha=1\.0 must lie in \(0, 1\)"),
        ({"n": 0}, "n=0 must be at least 1"),
        ({"n0": 0}, "n0=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"n": 9, "alpha": 0.001}, "n=9 samples can't certify anything .* at least n=10"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        certify(constant, points((4,)), **{"sigma": 1.0, **options})


def test_inputs_and_logits_that_make_no_sense():
    x = points((4,))
    with pytest.raises(ValueError, match=r"floating point .* got torch\.int64"):
        certify(constant, x.long(), sigma=1.0)
    with pytest.raises(ValueError, match=r"\(4, 0\) have no entries"):
        certify(constant, torch.zeros(4, 0), sigma=1.0)
    with pytest.raises(ValueError, match=r"logits of shape \(N, C\) with C ≥ 2"):
        certify(lambda x: x[:, :1], x, sigma=1.0)
    with pytest.raises(ValueError, match="NaN logits"):
        certify(lambda x: x * math.nan, x, sigma=1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_no_number_is_blamed_itself(value: float) -> None:
    x = torch.rand(4, 6)
    x[2, 3] = value
    for call in (certify, predict):
        with pytest.raises(ValueError, match="x holds NaN or infinity"):
            call(nn.Linear(6, 3), x, sigma=0.1, n=100)


def test_an_example_meets_its_noise_wherever_it_lies() -> None:
    """Rows of a batch, asked for by their numbers, get the votes that they had in the whole."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator)
    model = nn.Linear(5, 3)
    options = {"sigma": 1.0, "seed": 4, "batch_size": 7, "most": None, "title": "", "quiet": True}
    with counting(model, x, **options) as count:  # type: ignore[arg-type]
        whole = count_votes(count, torch.arange(6), 6, n0=20, n=700)
    rows = [4, 1]
    with counting(model, x[rows], numbers=rows, **options) as count:  # type: ignore[arg-type]
        part = count_votes(count, torch.arange(2), 2, n0=20, n=700)
    for one, other in zip(whole, part, strict=True):
        assert one[rows].tolist() == other.tolist()
