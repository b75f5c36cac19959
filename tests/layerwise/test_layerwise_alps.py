import pytest
import torch

from robustprune.layerwise.admm import admm
from robustprune.layerwise.alps import alps
from robustprune.layerwise.refit import least_squares


def test_gradients_arrive_at_the_least_squares_of_the_mask(make_layer):
    problem = make_layer(target="other").problem
    quadratic = problem.quadratic(0.01, by="mean")
    errors = []
    for steps in (0, 2, 10, 100):
        solution = alps(problem, gradients=steps)
        errors.append(float(quadratic.error(solution.weight)))
    assert errors == sorted(errors, reverse=True)
    best = least_squares(quadratic, solution.mask)
    torch.testing.assert_close(solution.weight, best, rtol=1e-6, atol=1e-9)


def test_stops_where_the_mask_stays(make_layer):
    """A truth that has `kept` weights is found, whatever ρ is at first."""
    layer = make_layer(columns=16, target="own")
    problem = layer.problem
    mask = problem.choose(problem.weight.abs())
    sparse = problem.weight * mask
    problem = type(problem)(
        sparse, problem.gram, sparse @ problem.gram, problem.power, 100, problem.groups, 48
    )
    for rho in (0.01, 0.1, 10.0):
        assert torch.equal(alps(problem, rho=rho).mask, mask)
    few, many = alps(layer.problem, iterations=1000), alps(layer.problem, iterations=3000)
    assert torch.equal(few.weight, many.weight)


def test_is_at_least_as_good_as_admm_for_the_dense_output(make_layer):
    for seed in range(4):
        problem = make_layer(rows=64, columns=64, samples=300, density=0.25, seed=seed).problem
        assert problem.error(alps(problem).weight) < problem.error(admm(problem).weight)


def test_options_out_of_range_are_refused(make_layer):
    with pytest.raises(ValueError, match="rho must be a positive number, got -1"):
        alps(make_layer().problem, rho=-1)
    for options in ({"iterations": 0}, {"every": 0}):
        with pytest.raises(ValueError, match="iterations and every must be at least 1"):
            alps(make_layer().problem, **options)
