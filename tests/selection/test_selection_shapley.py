"""Shapley values against the sum over all subsets."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from robustprune.selection import knn_shapley, monte_carlo_shapley


def brute_force(utility, count):
    """φ_i = Σ_{S ∌ i} |S|! (N − |S| − 1)! / N! · (v(S ∪ {i}) − v(S))."""
    value = {
        subset: utility(subset)
        for size in range(count + 1)
        for subset in itertools.combinations(range(count), size)
    }
    phi = torch.zeros(count, dtype=torch.float64)
    for subset, before in list(value.items())[:-1]:  # all but the whole set
        weight = math.factorial(len(subset)) * math.factorial(count - len(subset) - 1)
        for i in set(range(count)) - set(subset):
            after = value[tuple(sorted((*subset, i)))]
            phi[i] += weight / math.factorial(count) * (after - before)
    return phi


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 7),
    k=st.integers(1, 9),
    ties=st.booleans(),
)
def test_knn_shapley_is_the_sum_over_all_subsets(seed, count, k, ties):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 2, generator=generator)
    other = torch.randn(3, 2, generator=generator)
    if ties:
        features, other = features.round(), other.round()
    y = torch.randint(0, 2, (count,), generator=generator)
    labels = torch.randint(0, 2, (3,), generator=generator)

    def utility(subset):
        right = 0.0
        for point, label in zip(other, labels, strict=True):
            by_distance = sorted(
                subset, key=lambda i: (((features[i] - point) ** 2).sum().item(), i)
            )
            right += sum(bool(y[i] == label) for i in by_distance[:k]) / k
        return right / 3

    values = knn_shapley(features, y, other, labels, k=k, batch_size=2)
    torch.testing.assert_close(values, brute_force(utility, count), atol=1e-12, rtol=0)


def test_knn_shapley_by_hand():
    """One validation point at 0 of class 1, K = 1: the nearest is wrong, the next right."""
    features = torch.tensor([[1.0], [2.0]])
    values = knn_shapley(features, torch.tensor([0, 1]), torch.zeros(1, 1), torch.tensor([1]), k=1)
    # orders: (0, 1) gives 0 and 0; (1, 0) gives 1 to the second and −1 to the first
    assert values.tolist() == [-0.5, 0.5]


def test_knn_shapley_refuses_what_does_not_fit():
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        knn_shapley(x, y, x, y, k=0)
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 1\) do not fit"):
        knn_shapley(x, y, x[:, :1], y, k=1)
    with pytest.raises(ValueError, match=r"validation has x of shape \(0, 2\)"):
        knn_shapley(x, y, x[:0], y[:0], k=1)


GAME = dict(
    zip(
        (s for n in range(5) for s in itertools.combinations(range(4), n)),
        torch.randn(16, generator=torch.Generator().manual_seed(0)).tolist(),
        strict=True,
    )
)


def play(indices):
    return GAME[tuple(indices.tolist())]


def test_monte_carlo_shapley_is_unbiased():
    truth = brute_force(GAME.__getitem__, 4)
    estimate = monte_carlo_shapley(play, 4, permutations=1500)
    assert (estimate.errors < 0.06).all()
    assert ((estimate.values - truth).abs() < 4.5 * estimate.errors).all()
    total = GAME[0, 1, 2, 3] - GAME[()]
    assert estimate.values.sum().item() == pytest.approx(total, abs=1e-12)
    assert estimate.calls == 2 + 3 * 1500


def test_an_additive_game_needs_no_luck():
    worth = torch.tensor([0.5, -1.0, 0.0, 2.0]).double()
    estimate = monte_carlo_shapley(lambda s: worth[s].sum().item(), 4, permutations=2)
    torch.testing.assert_close(estimate.values, worth)
    assert estimate.errors.max() < 1e-12


def test_truncation_stops_an_order_near_the_full_value():
    """The first two examples of any order are worth everything."""
    estimate = monte_carlo_shapley(lambda s: min(len(s), 2) / 2, 6, permutations=20, tolerance=0.01)
    assert estimate.calls == 2 + 2 * 20
    assert estimate.values.sum().item() == pytest.approx(1.0)
    whole = monte_carlo_shapley(lambda s: min(len(s), 2) / 2, 6, permutations=20)
    assert whole.calls == 2 + 5 * 20
    assert torch.equal(whole.values, estimate.values)


def test_monte_carlo_refusals():
    with pytest.raises(ValueError, match="permutations=1 at least 2"):
        monte_carlo_shapley(play, 4, permutations=1)
    with pytest.raises(ValueError, match="tolerance=-1 must be"):
        monte_carlo_shapley(play, 4, permutations=2, tolerance=-1)
    with pytest.raises(ValueError, match="the utility of 0 examples is nan"):
        monte_carlo_shapley(lambda s: float("nan"), 4, permutations=2)
