from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from robustprune.layerwise.greedy import cosamp, gomp, omp, stomp
from robustprune.layerwise.obs import obs
from robustprune.layerwise.refit import least_squares


def pursue(x, t, kept, stage):
    """A pursuit of one row on its data, as the papers state it. `stage` names the inputs to add,
    from the normalised correlations, the residual and how many are still wanted."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    support, residual = [], t
    while len(support) < kept:
        correlation = np.abs(x @ residual)
        correlation[support] = -1
        support += list(stage(correlation, residual, kept - len(support)))
        weight = np.linalg.lstsq(x[support].T, t, rcond=None)[0]
        residual = t - weight @ x[support]
    return sorted(support)


def by_threshold(correlation, residual, left):
    bar = 2.5 * np.linalg.norm(residual) / np.sqrt(len(residual))
    best = np.argsort(-correlation)
    return best[: min(left, max(1, int((correlation > bar).sum())))]


STAGES = {
    omp: lambda correlation, residual, left: [correlation.argmax()],
    gomp: lambda correlation, residual, left: np.argsort(-correlation)[: min(4, left)],
    stomp: by_threshold,
}


@pytest.mark.parametrize("solve", [omp, gomp, stomp])
@pytest.mark.parametrize("samples", [20, 60])
def test_is_the_pursuit_of_its_paper(make_layer, solve, samples):
    """With fewer samples than inputs, all of any target can be reached; with more, of this one."""
    layer = make_layer(rows=5, columns=40, by_row=True, density=0.25, samples=samples, groups=2)
    solution = solve(layer.problem, ridge=0, **({} if solve is omp else {"over": 1}))
    for g in range(2):
        for row in range(5):
            truth = pursue(
                layer.inputs[g].numpy(), layer.targets[g, row].numpy(), 10, STAGES[solve]
            )
            assert solution.mask[g, row].nonzero().flatten().tolist() == truth


def test_omp_is_that_of_scikit_learn(make_layer):
    for seed in range(10):
        layer = make_layer(
            columns=30, by_row=True, density=0.3, samples=50, target="other", seed=seed
        )
        problem, scale = layer.problem.normalised()
        weight = omp(problem, ridge=0).weight[0].numpy()
        inputs = (layer.inputs / scale.mT)[0].numpy().T
        for row in range(6):
            truth = orthogonal_mp(inputs, layer.targets[0, row].numpy(), n_nonzero_coefs=9)
            np.testing.assert_allclose(weight[row], truth, rtol=1e-6, atol=1e-9)


def test_the_whole_layer_takes_the_next_weight_that_lowers_the_error_most(make_layer):
    problem = make_layer(rows=4, columns=10, target="other").problem
    quadratic = problem.quadratic(0.01)

    def error(mask):
        return float(quadratic.error(least_squares(quadratic, mask)))

    mask = torch.zeros(1, 4, 10, dtype=torch.bool)
    scale = quadratic.hessian.diagonal(dim1=1, dim2=2).sqrt()
    for _ in range(problem.kept):
        correlation = quadratic.cross - least_squares(quadratic, mask) @ quadratic.hessian
        following = (correlation.abs() / scale).masked_fill(mask, -1).argmax(-1)[0]
        nexts = []
        for row, column in enumerate(following):
            more = mask.clone()
            more[0, row, column] = True
            nexts.append(more)
        mask = min(nexts, key=error)
    # the paths are merged by a running minimum, which is this unless a gain exceeds the one before
    assert error(omp(problem).mask) == pytest.approx(error(mask), rel=0.05)


def test_orthogonal_least_squares_take_the_best_next_weight(make_layer):
    problem = make_layer(rows=1, columns=12, by_row=True, target="other").problem
    quadratic = problem.quadratic(0.01)
    mask = torch.zeros(1, 1, 12, dtype=torch.bool)
    for _ in range(6):
        nexts = [mask.clone() for _ in range(12)]
        for column, more in enumerate(nexts):
            more[..., column] = True
        errors = [float(quadratic.error(least_squares(quadratic, more))) for more in nexts]
        mask = nexts[int(np.argmin(errors))]
    assert torch.equal(omp(problem, relative_to="residual").mask, mask)


@pytest.mark.parametrize("solve", [omp, partial(gomp, at_a_time=2, over=4), stomp, cosamp])
def test_phase_transition(make_layer, solve):
    """OMP finds 3 8 17 18 19 20 of 20 at 8, 12, 16, 20, 24, 28 samples of 60, other draws."""
    found = [recoveries(make_layer, solve, samples) for samples in (4, 16, 28, 40)]
    assert found[0] <= 2
    assert found[3] >= 18
    assert found == sorted(found)


def recoveries(make_layer, solve, samples):
    """How many of 20 sparse truths (4 of 60) are found from Gaussian samples, each its own."""
    random = torch.Generator().manual_seed(samples)
    inputs = torch.randn(20, 60, samples, generator=random, dtype=torch.float64)
    place = torch.rand(20, 1, 60, generator=random).argsort(-1)[..., :4]
    values = torch.randn(20, 1, 4, generator=random, dtype=torch.float64)
    truth = torch.zeros(20, 1, 60, dtype=torch.float64).scatter(-1, place, values)
    problem = make_layer(1, 60, groups=20, by_row=True, density=4 / 60, samples=samples).problem
    gram, power = inputs @ inputs.mT, (truth @ inputs).square().sum()
    problem = replace(
        problem, weight=torch.zeros_like(truth), gram=gram, cross=truth @ gram, power=power
    )
    weight = solve(problem, ridge=1e-10).weight
    return int(((weight - truth).abs().amax((1, 2)) < 1e-3).sum())


def test_cosamp_is_about_as_good_as_obs_at_few_weights(make_layer):
    for seed in range(5):
        problem = make_layer(rows=8, columns=32, by_row=True, density=0.25, seed=seed).problem
        assert problem.error(cosamp(problem).weight) < 3 * problem.error(obs(problem).weight)


def test_options_without_sense_are_refused(make_layer):
    problem = make_layer().problem
    with pytest.raises(ValueError, match=r"at least 1, got 0 and 1\.5"):
        gomp(problem, at_a_time=0)
    with pytest.raises(ValueError, match=r"over at least 1, got 0 and 1\.5"):
        stomp(problem, threshold=0)
    with pytest.raises(ValueError, match=r"over at least 1, got 2\.5 and 0\.5"):
        stomp(problem, over=0.5)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        cosamp(problem, iterations=0)
    with pytest.raises(ValueError, match="a row of the layer has 16 inputs"):
        omp(problem, most_columns=8)
