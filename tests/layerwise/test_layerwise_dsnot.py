from dataclasses import replace

import numpy as np
import pytest
import torch

from robustprune.layerwise.dsnot import dsnot
from robustprune.layerwise.problem import LayerProblem
from robustprune.layerwise.scores import magnitude, wanda
from robustprune.sparsity import Groups


def swaps(weight, kept, mean, variance, norm, cycles=50, threshold=0.1, power=1.0):
    """One row, as the paper's algorithm says it."""
    effect, kept = weight * mean, kept.copy()
    grow, prune = set(np.flatnonzero(~kept)), set(np.flatnonzero(kept))
    missing = effect[~kept].sum()
    sign = np.sign(missing)
    for _ in range(cycles):
        if abs(missing) <= threshold or not grow:
            break
        order = sorted(grow, key=lambda j: effect[j] / variance[j] ** power)
        grown = order[-1] if missing > 0 else order[0]
        against = [j for j in sorted(prune) if effect[j] * missing < 0]
        if not against:
            break
        pruned = min(against, key=lambda j: abs(weight[j]) * norm[j])
        after = missing + effect[pruned] - effect[grown]
        if np.sign(after) != sign:
            break
        kept[grown], kept[pruned], missing = True, False, after
        grow.remove(grown)
        prune.remove(pruned)
    return kept


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("options", [{}, {"cycles": 1}, {"threshold": 3.0, "power": 0.5}])
def test_is_the_algorithm_of_the_paper(make_layer, by_row, options):
    problem = make_layer(rows=12, columns=30, groups=2, by_row=by_row).problem
    problem = replace(problem, examples=10)
    before, found = wanda(problem).mask, dsnot(problem, **options)
    for g in range(2):
        mean, variance = 10 * problem.mean[g].numpy(), problem.variance[g].numpy()
        norm = problem.energy[g].sqrt().numpy()
        for row in range(12):
            weight = problem.weight[g, row].numpy()
            truth = swaps(weight, before[g, row].numpy(), mean, variance, norm, **options)
            assert np.array_equal(found.mask[g, row].numpy(), truth)
    assert not torch.equal(found.mask, before)
    assert torch.equal(found.weight, problem.weight * found.mask)


def by_hand(weight, mean, pattern="element"):
    weight, mean = torch.tensor([[weight]]), torch.tensor([mean])
    columns = weight.shape[-1]
    one = torch.eye(columns)[None]
    groups = Groups((1, columns), pattern)
    kept = columns // 2
    return LayerProblem(
        weight, one, weight, torch.tensor(1.0), 1, groups, kept, mean, torch.ones(1, columns)
    )


def test_a_swap_by_hand():
    # kept 5 4 −3, pruned 2 1 −1 (ε = 2 + 1 − 1 = 2): 2 comes back, −3 goes, but ε would be −3
    assert dsnot(by_hand([5.0, 4, -3, 2, 1, -1], [1.0] * 6)).mask.int().tolist() == [
        [[1, 1, 1, 0, 0, 0]]
    ]
    # with a mean of 0.2 for the third, ε would be 2 − 0.6 − 2 = −0.6; of 0, it has no sign
    # pruned 2 2 −1 (ε = 3): 2 comes back, −0.6 goes, ε = 0.4; then 2 again would turn it
    assert dsnot(by_hand([5.0, 4, -3, 2, 2, -1], [1.0, 1, 0.2, 1, 1, 1])).mask.int().tolist() == [
        [[1, 1, 0, 1, 0, 0]]
    ]


def test_the_mean_of_no_row_is_further_away(make_layer):
    problem = make_layer(rows=40, columns=30).problem
    mean = problem.mean.unsqueeze(-1)
    for start in (wanda(problem), magnitude(problem)):
        away = ((problem.weight - start.weight) @ mean).abs()
        after = ((problem.weight - dsnot(problem, start.mask).weight) @ mean).abs()
        assert bool((after <= away + 1e-12).all())
        assert float(after.sum()) < 0.9 * float(away.sum())


def test_rows_keep_their_counts(make_layer):
    problem = make_layer(rows=40, columns=30).problem
    before, after = wanda(problem).mask, dsnot(problem, cycles=500).mask
    assert torch.equal(before.sum(-1), after.sum(-1))


@pytest.mark.parametrize("columns", [16, 15])
def test_nm_stays_nm(make_layer, columns):
    problem = make_layer(rows=40, columns=columns, pattern="2:4").problem
    before, after = wanda(problem).mask, dsnot(problem, threshold=0.0).mask
    assert not torch.equal(before, after)
    assert torch.equal(problem.choose(after.double()), after)


def test_a_problem_without_means_and_groups_are_refused(make_layer):
    problem = make_layer().problem
    with pytest.raises(ValueError, match="needs the mean and the variance"):
        dsnot(replace(problem, mean=None))
    with pytest.raises(ValueError, match="swaps single weights, pattern '1x4' groups them"):
        dsnot(make_layer(pattern="1x4").problem)
