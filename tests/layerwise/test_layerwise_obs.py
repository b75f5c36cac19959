import itertools

import numpy as np
import pytest
import torch

from robustprune.layerwise.bundles import bundles_of
from robustprune.layerwise.obs import obs, remove
from robustprune.layerwise.refit import least_squares, refit
from robustprune.layerwise.scores import magnitude


def steps(hessian, weight):
    """Exact OBS of one row to the end, as its equations say it: (column, cost) in order."""
    inverse, w = np.linalg.inv(hessian), weight.copy()
    left, found = list(range(len(w))), []
    while left:
        j = min(left, key=lambda j: w[j] ** 2 / inverse[j, j])
        found.append((j, w[j] ** 2 / inverse[j, j]))
        w = w - w[j] / inverse[j, j] * inverse[:, j]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        left.remove(j)
    return found


@pytest.mark.parametrize("target", ["own", "other"])
@pytest.mark.parametrize("by_row", [False, True])
def test_is_the_loop_of_its_equations(make_layer, target, by_row):
    problem = make_layer(by_row=by_row, target=target).problem
    quadratic = problem.quadratic(0.01)
    rows = [steps(quadratic.hessian[0].numpy(), quadratic.optimum[0, r].numpy()) for r in range(6)]
    mask = np.ones((6, 16), dtype=bool)
    if by_row:
        for r, found in enumerate(rows):
            mask[r, [j for j, _ in found[:8]]] = False
    else:
        for _ in range(48):  # the cheapest of what is next in each row
            r = min((r for r in range(6) if rows[r]), key=lambda r: rows[r][0][1])
            mask[r, rows[r].pop(0)[0]] = False
    assert np.array_equal(obs(problem).mask[0].numpy(), mask)


def test_the_costs_add_up_to_the_error(make_layer):
    problem = make_layer(groups=2, target="other", by_row=True).problem
    quadratic = problem.quadratic(0.01)
    removals = remove(quadratic, bundles_of(problem))
    error = quadratic.error(obs(problem).weight)
    torch.testing.assert_close(removals.cost.sum(), error)
    pieces = remove(quadratic, bundles_of(problem), memory=1)
    assert torch.equal(pieces.number, removals.number)


@pytest.mark.parametrize("pattern", ["column", "4x4", "1x4", "3x2", "filter"])
def test_the_costs_of_groups_add_up_to_the_error_of_zero(make_layer, pattern):
    problem = make_layer(rows=6, columns=14, pattern=pattern, target="other").problem
    quadratic = problem.quadratic(0.01)
    removals = remove(quadratic, bundles_of(problem))
    torch.testing.assert_close(
        removals.cost.sum(), quadratic.error(torch.zeros_like(problem.weight))
    )
    assert removals.number.flatten().sort().values.tolist() == list(range(problem.groups.number))


def test_the_cheapest_group_goes_first(make_layer):
    """Each group's cost is the error of the least squares without it."""
    for pattern in ("channel", "2x3", "row", "kernel", "filter"):
        layer = make_layer(rows=4, columns=4, kernel=(3,), pattern=pattern, target="other")
        problem = layer.problem
        quadratic, number = problem.quadratic(0.01), problem.groups.number
        errors = []
        for group in range(number):
            mask = problem.spread(torch.arange(number) != group)
            errors.append(float(quadratic.error(least_squares(quadratic, mask))))
        removals = remove(quadratic, bundles_of(problem))
        for first, cost in zip(removals.number[:, 0], removals.cost[:, 0], strict=True):
            assert errors[int(first)] == pytest.approx(float(cost))
        assert min(errors) == pytest.approx(float(removals.cost[:, 0].min()))


def test_no_subset_is_better_than_the_best_and_magnitude_is_worse(make_layer):
    for seed in range(5):
        layer = make_layer(rows=3, columns=8, by_row=True, samples=40, seed=seed)
        quadratic = layer.problem.quadratic(0.01)
        best = 0.0
        for row in range(3):
            errors = []
            for subset in itertools.combinations(range(8), 4):
                mask = torch.zeros(1, 3, 8, dtype=torch.bool)
                mask[0, row, list(subset)] = True
                away = least_squares(quadratic, mask)[0, row] - quadratic.optimum[0, row]
                errors.append(float(away @ quadratic.hessian[0] @ away))
            best += min(errors)
        found = float(quadratic.error(obs(layer.problem).weight))
        refitted = refit(layer.problem, magnitude(layer.problem).mask).weight
        assert best <= found * (1 + 1e-12) <= float(quadratic.error(refitted))


def test_weights_are_the_least_squares_of_the_data(make_layer):
    layer = make_layer(target="other", by_row=True)
    solution = obs(layer.problem, ridge=0)
    for row in range(6):
        on = solution.mask[0, row].numpy()
        x, t = layer.inputs[0].numpy()[on], layer.targets[0, row].numpy()
        truth = np.linalg.lstsq(x.T, t, rcond=None)[0]
        np.testing.assert_allclose(solution.weight[0, row].numpy()[on], truth, rtol=1e-7)


def test_large_layers_are_refused(make_layer):
    with pytest.raises(ValueError, match=r"has 16 inputs.* set most_columns \(now 15\) to 16"):
        obs(make_layer().problem, most_columns=15)


def test_tiles_across_matrices_are_refused(make_layer):
    problem = make_layer(rows=3, groups=2, pattern="4x4").problem
    with pytest.raises(ValueError, match="tiles of 4x4 span the groups of a convolution in 2"):
        obs(problem)
