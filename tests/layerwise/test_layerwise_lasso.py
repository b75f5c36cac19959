import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.linear_model import Lasso

from robustprune.layerwise.lasso import basis_pursuit, fista, lasso, smallest_l1
from robustprune.layerwise.refit import refit
from robustprune.layerwise.scores import wanda


@pytest.mark.parametrize("penalty", [10.0, 100.0, 3000.0])
def test_fista_is_the_lasso_of_scikit_learn_and_stationary(make_layer, penalty):
    layer = make_layer(groups=2, samples=60, target="other")
    problem, scale = layer.problem.normalised()
    inputs = layer.inputs / scale.mT
    quadratic = problem.quadratic(0.0)
    start = torch.zeros_like(problem.weight)
    weight = fista(quadratic, penalty, start, 20000, tolerance=1e-15)
    for g in range(2):
        for row in range(6):
            peer = Lasso(alpha=penalty / 120, fit_intercept=False, tol=1e-13, max_iter=100000)
            peer.fit(inputs[g].numpy().T, layer.targets[g, row].numpy())
            np.testing.assert_allclose(weight[g, row], peer.coef_, rtol=1e-6, atol=1e-7)
    slope = 2 * (quadratic.cross - weight @ quadratic.hessian)  # 2 Aᵀ r
    assert float(slope.abs().max()) <= penalty * (1 + 1e-7)
    on = weight != 0
    torch.testing.assert_close(slope[on], penalty * weight[on].sign(), rtol=1e-6, atol=1e-6)


def test_without_a_penalty_it_is_the_optimum(make_layer):
    quadratic = make_layer(target="other").problem.normalised()[0].quadratic(0.01)
    found = fista(quadratic, 0.0, torch.zeros_like(quadratic.cross), 5000, tolerance=1e-14)
    torch.testing.assert_close(found, quadratic.optimum)


def test_each_row_has_its_own_penalty(make_layer):
    problem = make_layer(target="other").problem.normalised()[0]
    quadratic = problem.quadratic(0.01)
    penalty = torch.tensor([1.0, 10, 30, 100, 300, 1000], dtype=torch.float64).view(1, 6, 1)
    together = fista(quadratic, penalty, torch.zeros_like(problem.weight), 3000, tolerance=1e-13)
    alone = fista(quadratic, 30.0, torch.zeros_like(problem.weight), 3000, tolerance=1e-13)
    torch.testing.assert_close(together[:, 2], alone[:, 2])


@pytest.mark.parametrize("by_row", [False, True])
def test_lasso_keeps_what_its_path_keeps(make_layer, by_row):
    """The weights of the solution at the λ where `kept` are left, from scikit-learn's path."""
    layer = make_layer(rows=1, columns=20, by_row=by_row, density=0.25, target="other", seed=3)
    problem, scale = layer.problem.normalised()
    inputs = (layer.inputs / scale.mT)[0].numpy().T
    for penalty in np.geomspace(2 * float(problem.cross.abs().max()), 1e-3, 400):
        peer = Lasso(alpha=penalty / 200, fit_intercept=False, max_iter=100000)
        on = peer.fit(inputs, layer.targets[0, 0].numpy()).coef_ != 0
        if on.sum() >= 5:
            break
    assert on.sum() == 5
    solution = lasso(layer.problem, ridge=0, bisections=30, steps=2000, tolerance=1e-9)
    assert np.array_equal(solution.mask[0, 0].numpy(), on)
    refitted = refit(layer.problem, solution.mask, ridge=0).weight
    torch.testing.assert_close(solution.weight, refitted)


def test_lasso_beats_the_weights_as_they_are(make_layer):
    for seed in range(3):
        problem = make_layer(rows=16, columns=32, density=0.25, target="other", seed=seed).problem
        assert problem.error(lasso(problem).weight) < problem.error(wanda(problem).weight)


@pytest.mark.parametrize("samples", [6, 12])
def test_basis_pursuit_is_the_linear_programme(make_layer, samples):
    layer = make_layer(rows=4, columns=20, samples=samples, target="other")
    problem, scale = layer.problem.normalised()
    inputs = (layer.inputs / scale.mT)[0].numpy()
    found = smallest_l1(problem.gram, problem.cross, 20000, tolerance=1e-10)
    for row in range(4):
        both = np.concatenate([inputs.T, -inputs.T], 1)  # w = u − v, both ≥ 0
        truth = linprog(np.ones(40), A_eq=both, b_eq=layer.targets[0, row].numpy())
        assert float(found[0, row].abs().sum()) == pytest.approx(truth.fun, rel=1e-6)
        np.testing.assert_allclose(found[0, row], truth.x[:20] - truth.x[20:], atol=1e-5)


def test_basis_pursuit_finds_a_sparse_truth(make_layer):
    layer = make_layer(rows=6, columns=60, samples=28, by_row=True, density=4 / 60)
    random = torch.Generator().manual_seed(0)
    truth = torch.zeros_like(layer.problem.weight)
    place = torch.rand(1, 6, 60, generator=random).argsort(-1)[..., :4]
    truth.scatter_(-1, place, torch.randn(1, 6, 4, generator=random, dtype=torch.float64))
    inputs = torch.randn(1, 60, 28, generator=random, dtype=torch.float64)
    gram = inputs @ inputs.mT
    problem = type(layer.problem)(
        truth, gram, truth @ gram, (truth @ inputs).square().sum(), 28, layer.problem.groups, 24
    )
    torch.testing.assert_close(basis_pursuit(problem, ridge=0).weight, truth)
