"""The sequential test against quadrature, and against its own promise at every stopping time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from robustprune.certify.sequential import decide, evidence


@given(st.integers(0, 12), st.integers(0, 12), st.floats(0.02, 0.98))
def test_evidence_is_the_mixture_of_likelihood_ratios(misses: int, hits: int, u: float) -> None:
    """E = ∫ (v/u)^m ((1−v)/(1−u))^h dπ(v); with v = sin²t, Beta(½, ½) is uniform in t."""

    def ratio(t: float) -> float:
        v = np.sin(t) ** 2
        return float((v / u) ** misses * ((1 - v) / (1 - u)) ** hits)

    cut = np.arcsin(np.sqrt(u))
    fewer = quad(ratio, 0, cut)[0] / cut
    more = quad(ratio, cut, np.pi / 2)[0] / (np.pi / 2 - cut)
    found = evidence(np.array([misses]), misses + hits, np.array([u]))
    assert np.exp(found[0][0]) == pytest.approx(fewer, rel=1e-6)
    assert np.exp(found[1][0]) == pytest.approx(more, rel=1e-6)


@given(st.floats(1e-6, 0.6), st.integers(0, 40), st.integers(1, 10**6))
def test_mean_of_one_step_at_the_edge_is_one(u: float, misses: int, samples: int) -> None:
    """A martingale at q = u: E_t = u E(miss) + (1 − u) E(hit)."""
    misses = min(misses, samples)
    now = evidence(np.array([misses]), samples, np.array([u]))
    miss = evidence(np.array([misses + 1]), samples + 1, np.array([u]))
    hit = evidence(np.array([misses]), samples + 1, np.array([u]))
    for before, worse, better in zip(now, miss, hit, strict=True):
        if before[0] > -600:
            mean = u * np.exp(worse - before) + (1 - u) * np.exp(better - before)
            assert mean[0] == pytest.approx(1.0, rel=1e-6)


def sampler(rng: np.random.Generator, q: np.ndarray):  # type: ignore[no-untyped-def]
    return lambda rows, samples: rng.binomial(samples, q[rows])


@pytest.mark.parametrize("u", [0.3, 0.01])
def test_a_false_claim_is_confirmed_as_rarely_as_promised(u: float) -> None:
    """At the edge of the claim, looked at many times over: at most 5% of 4,000, by Ville."""
    q = np.full(4000, u)
    found = decide(sampler(np.random.default_rng(0), q), q, level=0.05, alarm=0.05, limit=20_000)
    # 5% and four standard deviations of that count
    assert found.confirmed.sum() <= 4000 * 0.05 + 4 * np.sqrt(4000 * 0.05 * 0.95)
    assert found.refuted.sum() <= 4000 * 0.05 + 4 * np.sqrt(4000 * 0.05 * 0.95)
    assert found.confirmed.sum() > 10  # it does decide: the promise is not kept by silence


def test_what_is_clear_is_decided_soon_and_what_is_not_is_left_open() -> None:
    q = np.array([0.0, 1e-4, 2e-2, 0.5, 0.01])
    u = np.full(5, 0.01)
    found = decide(sampler(np.random.default_rng(1), q), u, level=1e-6, alarm=1e-6, limit=100_000)
    assert found.confirmed.tolist() == [True, True, False, False, False]
    assert found.refuted.tolist() == [False, False, True, True, False]
    # without a miss, log E ≈ t·u − log: about ln(1e6)/u samples and a half more, at least so many
    assert np.log(1e6) / 0.01 <= found.drawn[0] <= 3000
    assert found.drawn[4] == 100_000


@pytest.mark.parametrize("u", [0.0, 5e-324, 1e-20, 1.0])
def test_extremes_are_no_evidence_by_accident(u: float) -> None:
    none, some = np.array([0]), np.array([1])
    assert evidence(none, 10**6, np.array([u]))[0][0] < np.log(20) or u == 1.0
    fewer, more = evidence(some, 10**6, np.array([u]))
    assert not np.isnan([fewer, more]).any()
    if u < 1e-10:
        assert more[0] > np.log(1e6)


def test_quantiles_agree_with_scipy() -> None:
    """The cut beta distribution of the posterior, as `scipy.stats` has it."""
    m, t, u = np.array([3]), 1000, np.array([0.01])
    fewer, more = evidence(m, t, u)
    post, prior = beta(3.5, 997.5), beta(0.5, 0.5)
    odds = post.logcdf(u) - prior.logcdf(u) - post.logsf(u) + prior.logsf(u)
    assert fewer - more == pytest.approx(odds, rel=1e-9)
