"""Paired tests, intervals, ranks and folds, against scipy, tables and cases done by hand."""

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from robustprune.measure import (
    PairedTest,
    Ranking,
    average_ranks,
    bootstrap_interval,
    choose_by_cross_validation,
    groups,
    holm,
    mcnemar,
    paired_wilcoxon,
    proportion,
    stratified_folds,
)


def test_wilcoxon_is_scipys_exact_one_without_ties() -> None:
    generator = np.random.default_rng(0)
    for n in (3, 7, 10, 13):
        differences = generator.normal(0.3, 1.0, n)
        ours = paired_wilcoxon([0.0] * n, differences.tolist())
        assert ours.p == pytest.approx(float(wilcoxon(differences, method="exact").pvalue))
        assert ours.difference == pytest.approx(differences.mean())


def test_wilcoxon_by_hand() -> None:
    """Ten wins of ten: 2 of the 2^10 sign patterns are as extreme. With ties: |d| = 1, 1, 2 have
    ranks 1.5, 1.5, 3, and of the 8 patterns all but ±(1.5 + 1.5 − 3) reach |T| = 3."""
    ten = paired_wilcoxon([0.8] * 10, [0.8 + 0.01 * i for i in range(1, 11)])
    assert (ten.p, ten.better, ten.worse) == (2 / 1024, 10, 0)
    tied = paired_wilcoxon([0, 0, 0, 5], [1, -1, 2, 5])
    assert tied.p == pytest.approx(6 / 8)
    assert (tied.better, tied.worse) == (2, 1)
    assert paired_wilcoxon([1, 2], [1, 2]).p == 1.0


def test_differences_of_decimals_tie() -> None:
    """0.86 − 0.85 and 0.87 − 0.86 differ in the last bit."""
    assert paired_wilcoxon([0.85, 0.87], [0.86, 0.86]).p == 1.0
    assert paired_wilcoxon([0.85, 0.87], [0.86, 0.86]).difference == 0.0


def test_wilcoxon_of_many_pairs_is_near_its_exact_value() -> None:
    differences = np.random.default_rng(1).normal(0.4, 1.0, 25)
    exact = float(wilcoxon(differences, method="exact").pvalue)
    assert paired_wilcoxon([0.0] * 25, differences.tolist()).p == pytest.approx(exact, abs=0.01)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, value in zip(p, adjusted, strict=True):
        assert raw <= value <= 1.0
        assert value <= min(1.0, len(p) * max(p))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in pairwise(order))
    assert adjusted[order[0]] == pytest.approx(min(1.0, len(p) * p[order[0]]))


def test_the_bootstrap_covers_the_mean() -> None:
    """95% intervals of 40 normal values: close to 95% of 300 contain the truth."""
    generator = np.random.default_rng(2)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(
            generator.normal(5, 2, 40).tolist(), resamples=500, seed=seed
        )
        covered += low <= 5 <= high
    assert 0.90 <= covered / 300 <= 0.98
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_average_ranks_by_hand() -> None:
    """Three methods on four sets; ranks 1 2 3, 1 2 3, 2 1 3, 1.5 1.5 3. Friedman's statistic with
    ties: 12/(Nk(k+1)) (ΣR_j² − ...) over its correction; Nemenyi's q for k=3 is 2.343."""
    ranking = average_ranks({"a": [3, 9, 5, 4], "b": [2, 8, 6, 4], "c": [1, 7, 4, 3]})
    assert ranking.ranks == pytest.approx({"a": 1.375, "b": 1.625, "c": 3.0})
    assert list(ranking.ranks) == ["a", "b", "c"]
    assert ranking.critical == pytest.approx(2.343 * (3 * 4 / 24) ** 0.5, abs=2e-3)
    # 12·(5.5² + 6.5² + 12²)/(4·3·4) − 3·4·4 = 6.125; correction 1 − 6/(4·24) = 15/16
    assert ranking.p == pytest.approx(np.exp(-(6.125 / (15 / 16)) / 2))
    assert groups(ranking) == [("a", "b", "c")]  # apart by 1.625, less than 1.657
    assert average_ranks({"a": [1, 2], "b": [1, 2], "c": [1, 2]}).p == 1.0


def test_groups_are_the_longest_runs() -> None:
    ranks = {"a": 1.0, "b": 2.0, "c": 2.4, "d": 4.0, "e": 6.0}
    assert groups(Ranking(ranks, 0.01, 1.5, 9)) == [("a", "b", "c")]
    assert groups(Ranking(ranks, 0.01, 2.0, 9)) == [("a", "b", "c"), ("b", "c", "d"), ("d", "e")]
    assert groups(Ranking(ranks, 0.01, 0.3, 9)) == []


def test_refusals() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_wilcoxon([1, 2], [1])
    with pytest.raises(ValueError, match="must be finite"):
        paired_wilcoxon([1, 2], [1, float("nan")])
    with pytest.raises(ValueError, match="at least two finite values"):
        bootstrap_interval([1.0])
    with pytest.raises(ValueError, match="level=1"):
        bootstrap_interval([1.0, 2.0], level=1)
    with pytest.raises(ValueError, match="at least three methods"):
        average_ranks({"a": [1, 2], "b": [2, 1]})
    with pytest.raises(ValueError, match="class 1 has 2 examples, fewer than folds=3"):
        stratified_folds(torch.tensor([0, 0, 0, 1, 1]), 3)
    with pytest.raises(ValueError, match="folds=1 must be at least 2"):
        stratified_folds(torch.zeros(4), 1)
    with pytest.raises(ValueError, match="nothing to choose from"):
        choose_by_cross_validation({}, torch.zeros(4))


@given(st.lists(st.integers(3, 9), min_size=2, max_size=4), st.integers(2, 3), st.integers(0, 5))
def test_folds_divide_every_class_evenly(counts: list[int], folds: int, seed: int) -> None:
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    pairs = stratified_folds(y, folds, repeats=2, seed=seed)
    assert len(pairs) == 2 * folds
    for division in (pairs[:folds], pairs[folds:]):
        assert torch.cat([held for _, held in division]).sort().values.tolist() == list(
            range(len(y))
        )
        sizes = [len(held) for _, held in division]
        assert max(sizes) - min(sizes) <= 1
        for training, held in division:
            assert sorted([*training.tolist(), *held.tolist()]) == list(range(len(y)))
            for label, count in enumerate(counts):
                assert int((y[held] == label).sum()) in (count // folds, -(-count // folds))
    again = stratified_folds(y, folds, repeats=2, seed=seed)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(pairs, again, strict=True))


def test_cross_validation_finds_the_better_threshold() -> None:
    """Two fixed rules on ten points: one is right on all, the other on half."""
    x, y = torch.arange(10.0), (torch.arange(10) >= 5).long()

    def rule(threshold: float):
        return lambda _, held: float(((x[held] >= threshold).long() == y[held]).float().mean())

    choice = choose_by_cross_validation({"all": rule(0.0), "middle": rule(5.0)}, y, folds=5)
    assert choice.best == "middle"
    assert choice.scores["middle"].mean == 1.0
    assert choice.scores["all"].mean == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_mcnemar_is_the_share_of_sign_flips_at_least_as_extreme(pairs) -> None:
    """Brute force: under the null each discordant pair is won by either side with a half."""
    first, second = zip(*pairs, strict=True)
    found = mcnemar(first, second)
    gaps = [int(b) - int(a) for a, b in pairs if a != b]
    flips = [abs(sum(signs)) for signs in itertools.product((-1, 1), repeat=len(gaps))]
    expected = sum(flip >= abs(sum(gaps)) for flip in flips) / len(flips)
    assert found.p == pytest.approx(expected)
    assert (found.better, found.worse) == (gaps.count(1), gaps.count(-1))
    assert found.difference == pytest.approx((sum(second) - sum(first)) / len(pairs))
    assert mcnemar(second, first).p == found.p


def test_mcnemar_sees_what_overlapping_intervals_hide() -> None:
    """The second is right wherever the first is, and on 12 of 200 more: p = 2⁻¹¹."""
    first = [k < 120 for k in range(200)]
    second = [k < 132 for k in range(200)]
    found = mcnemar(first, second)
    assert proportion(120, 200).ci95[1] > proportion(132, 200).ci95[0]
    assert found == PairedTest(pytest.approx(0.06), pytest.approx(2**-11), 12, 0)


def test_mcnemar_refuses_what_are_no_pairs_of_answers() -> None:
    with pytest.raises(ValueError, match="as many values on both sides, got 1 and 2"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="right \\(1\\) or wrong \\(0\\)"):
        mcnemar([0.5], [1])
