"""K-means on a line against every partition, scikit-learn and its own updates."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustprune.sparsity import bits_of, few_values
from robustprune.sparsity.values import distance, lloyd, split


def least(values: list[float], number: int) -> float:
    """The least sum of squared distances: of all ways to cut the sorted values into pieces."""
    line, found = sorted(values), math.inf
    for cuts in itertools.combinations(range(1, len(line)), number - 1):
        pieces = [line[a:b] for a, b in itertools.pairwise((0, *cuts, len(line)))]
        means = [sum(piece) / len(piece) for piece in pieces]
        costs = (sum((v - m) ** 2 for v in p) for p, m in zip(pieces, means, strict=True))
        found = min(found, sum(costs))
    return found


def drawn(number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, generator=generator, dtype=torch.float64)


def test_by_hand() -> None:
    values = torch.tensor([[5.0, -1.0], [1.0, 6.0], [-2.0, 1.5]])
    found = few_values(values, 3)
    assert found.tolist() == [[5.5, -1.5], [1.25, 5.5], [-1.5, 1.25]]
    assert few_values(values, 6).tolist() == values.tolist()
    assert few_values(values, 1).tolist() == [[pytest.approx(10.5 / 6)] * 2] * 3
    assert few_values(values[:0], 3).shape == (0, 2)


def test_small_inputs_come_near_the_best_partition_of_all() -> None:
    """Lloyd's result may be a local minimum. It is never better than the best, and mostly equal."""
    ratios = []
    for seed in range(30):
        values, number = drawn(12, seed), 2 + seed % 3
        found = distance(values, few_values(values, number))
        best = least(values.tolist(), number)
        ratios.append(found / best)
    assert min(ratios) > 1 - 1e-9
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) >= 15
    assert sum(ratios) / len(ratios) < 1.2


@pytest.mark.parametrize("number", [4, 16])
def test_is_as_good_as_scikit_learn(number: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    values = drawn(600, number)
    fit = cluster.KMeans(number, n_init=5, random_state=0).fit(values[:, None].numpy())
    found = few_values(values, number)
    assert len(found.unique()) == number
    assert distance(values, found) <= 1.05 * fit.inertia_
    # and its centres are a fixed point of scikit-learn's, too
    again = cluster.KMeans(number, init=found.unique()[:, None].numpy(), n_init=1)
    assert again.fit(values[:, None].numpy()).inertia_ == pytest.approx(distance(values, found))


def test_distances_never_grow() -> None:
    line = drawn(500, 0).sort().values
    start = split(line, 8)
    sums = [distance(line, lloyd(line, start, updates=n)) for n in range(40)]
    assert all(after <= before for before, after in itertools.pairwise(sums))
    assert sums[-1] == sums[-2] < 0.95 * sums[0]


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.integers(1, 8),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_there_are_no_more_values_and_each_is_among_its_own(
    values: list[float], number: int, dtype: torch.dtype
) -> None:
    given_ = torch.tensor(values, dtype=dtype)
    found = few_values(given_, number)
    assert found.dtype == dtype
    assert len(found.unique()) <= number
    assert torch.equal(found, few_values(given_, number))
    order = given_.argsort(stable=True)
    assert bool((found[order].diff() >= 0).all())  # the order of values stays
    assert found.min() >= given_.min()
    assert found.max() <= given_.max()
    if len(given_.unique()) <= number:
        assert torch.equal(found, given_)


def test_bits_by_hand() -> None:
    weight = torch.zeros(10, 10)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:, :2] = True
    weight[:, 0], weight[:, 1] = 0.5, -2.0
    # two values of 32 bits, a code of one bit for each of 20, and a bit for each of 100 positions
    assert bits_of(weight, mask) == 2 * 32 + 20 + 100
    few = torch.zeros(10, 10, dtype=torch.bool)
    few[0, 0] = True
    assert bits_of(weight, few) == 32 + 7  # as it is, and an index below 128
    weight[mask] = torch.arange(20.0)
    assert bits_of(weight, mask) == 20 * 32 + 100  # a table would need more
    assert bits_of(weight.bfloat16(), mask) == 20 * 16 + 100
