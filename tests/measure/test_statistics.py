"""Proportions with intervals, and means with spreads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from robustprune.measure.statistics import (
    Proportion,
    expected_proportion,
    mean_sd,
    proportion,
)

counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_no_success_has_the_closed_form_of_the_binomial() -> None:
    # P(0 of n | p) = (1 - p)^n = 0.025 gives the upper end.
    measured = proportion(0, 20)
    assert measured.value == 0.0
    assert measured.ci95[0] == 0.0
    assert measured.ci95[1] == pytest.approx(1 - 0.025 ** (1 / 20), rel=1e-12)


def test_every_success_mirrors_no_success() -> None:
    assert proportion(7, 7).ci95 == pytest.approx((0.025 ** (1 / 7), 1.0), rel=1e-12)


def test_one_of_two_by_hand() -> None:
    # Upper end: P(at most 1 of 2 | p) = 1 - p² = 0.025.
    low, high = proportion(1, 2).ci95
    assert high == pytest.approx(math.sqrt(0.975), rel=1e-12)
    assert low == pytest.approx(1 - math.sqrt(0.975), rel=1e-10)


@given(counts)
def test_agrees_with_scipys_exact_interval(pair: tuple[int, int]) -> None:
    successes, n = pair
    expected = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="exact")
    assert proportion(successes, n).ci95 == pytest.approx(
        (expected.low, expected.high), rel=1e-7, abs=1e-9
    )


@given(counts)
def test_interval_is_in_the_unit_range_around_the_value(pair: tuple[int, int]) -> None:
    measured = proportion(*pair)
    assert 0.0 <= measured.ci95[0] <= measured.value <= measured.ci95[1] <= 1.0
    assert measured.value == pair[0] / pair[1]


@given(counts, st.integers(2, 5))
def test_interval_shrinks_when_n_grows(pair: tuple[int, int], times: int) -> None:
    successes, n = pair
    few, many = proportion(successes, n), proportion(times * successes, times * n)
    assert many.ci95[1] - many.ci95[0] < few.ci95[1] - few.ci95[0]


shares = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200)


def test_expected_mean_by_hand() -> None:
    # One example, half right: the 97.5% quantile of Beta(1.5, 0.5), mirrored for the lower end.
    measured = expected_proportion([0.5])
    assert measured.value == 0.5
    assert measured.ci95[1] == pytest.approx(beta.ppf(0.975, 1.5, 0.5), rel=1e-9)
    assert measured.ci95[0] == pytest.approx(1 - measured.ci95[1], abs=1e-9)


@given(counts)
def test_whole_shares_are_a_count(pair: tuple[int, int]) -> None:
    successes, n = pair
    whole = [1.0] * successes + [0.0] * (n - successes)
    assert expected_proportion(whole) == proportion(successes, n)


@given(shares)
@example([1e-300])
@example([1.0, 1.0 - 2**-53])
def test_expected_interval_is_in_the_unit_range_around_the_value(values: list[float]) -> None:
    measured = expected_proportion(values)
    assert 0.0 <= measured.ci95[0] <= measured.value <= measured.ci95[1] <= 1.0


@pytest.mark.parametrize("n", [1, 3, 10, 40])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 0.9), (1 / 3, 1.0), (0.0, 0.5)])
def test_expected_interval_covers_the_true_mean(n: int, low: float, high: float) -> None:
    # Exact coverage when each share is `high` with probability q and `low` otherwise.
    intervals = [expected_proportion([high] * k + [low] * (n - k)).ci95 for k in range(n + 1)]
    for q in np.linspace(0.0, 1.0, 201):
        mean = low + q * (high - low)
        covered = [a - 1e-12 <= mean <= b + 1e-12 for a, b in intervals]
        assert binom.pmf(np.arange(n + 1), n, q) @ covered >= 0.95


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        expected_proportion([0.5, share])


def test_no_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        expected_proportion([])


def test_to_json() -> None:
    assert Proportion(0.5, 4, (0.1, 0.9)).to_json() == {"value": 0.5, "n": 4, "ci95": [0.1, 0.9]}


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (1, -2)])
def test_no_examples_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        proportion(successes, n)


@pytest.mark.parametrize("successes", [-1, 6])
def test_impossible_count_is_refused(successes: int) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.5"):
        proportion(successes, 5)


def test_fractional_count_is_refused() -> None:
    with pytest.raises(TypeError):
        proportion(2.5, 5)  # type: ignore[arg-type]


def test_mean_and_sample_deviation_by_hand() -> None:
    # Deviations -2, 0, 2: variance 8 / (3 - 1) = 4.
    spread = mean_sd([1.0, 3.0, 5.0])
    assert (spread.mean, spread.sd) == (3.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_spread_of_fewer_than_two_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        mean_sd(values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_spread_of_non_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_sd([1.0, value])
