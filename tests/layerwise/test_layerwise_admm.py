from dataclasses import replace

import pytest
import torch

from robustprune.layerwise.admm import admm
from robustprune.layerwise.refit import least_squares, refit
from robustprune.layerwise.scores import wanda


def boza(weight, gram, kept, cross=None, start=None, rho=1.0, ridge=0.1, iterations=20, chosen=15):
    """Boža 2024 for one matrix, as its equations say it (columns are outputs there); also with
    another T X̂ᵀ, and another W to start at."""
    norm = gram.diagonal().sqrt()
    XX = gram / norm / norm[:, None]
    XX = XX + ridge * XX.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    W = (weight * norm).T
    XY, U = XX @ W, torch.zeros_like(W)
    if cross is not None:
        XY = (cross / norm).T + ridge * W
    W = W if start is None else (start * norm).T
    inverse = torch.inverse(XX + rho * torch.eye(len(gram), dtype=gram.dtype))
    for i in range(iterations):
        if i < chosen:
            least = (W + U).abs().flatten().topk(W.numel() - kept, largest=False).indices
            mask = torch.ones(W.numel(), dtype=gram.dtype).index_fill(0, least, 0).view_as(W)
        Z = (W + U) * mask
        U = U + W - Z
        W = inverse @ (XY + rho * (Z - U))
    return ((W + U) * mask).T / norm


@pytest.mark.parametrize("options", [{}, {"rho": 0.3, "ridge": 0.02, "iterations": 7, "chosen": 3}])
def test_is_that_of_the_paper(make_layer, options):
    problem = make_layer(rows=8, columns=20).problem
    solution = admm(problem, single=False, **options)
    truth = boza(problem.weight[0], problem.gram[0], problem.kept, **options)
    torch.testing.assert_close(solution.weight[0], truth)
    assert int(solution.mask.sum()) == problem.kept


@pytest.mark.parametrize("start", ["dense", "optimum"])
def test_starts_where_it_is_told(make_layer, start):
    problem = make_layer(rows=8, columns=20, target="other").problem
    first = problem.weight if start == "dense" else problem.quadratic(0.1).optimum
    found = admm(problem, start=start, iterations=3, single=False).weight[0]
    given = problem.weight[0], problem.gram[0], problem.kept, problem.cross[0], first[0]
    torch.testing.assert_close(found, boza(*given, iterations=3))
    own = make_layer(rows=8, columns=20).problem
    one, two = (admm(own, start=name, single=False).weight for name in ("dense", "optimum"))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("target", ["own", "other"])
def test_converges_to_the_refit_of_its_support(make_layer, target):
    problem = make_layer(target=target).problem
    mask = wanda(problem).mask
    quadratic = problem.quadratic(0.1)
    best = least_squares(quadratic, mask)
    found = [admm(problem, mask, iterations=n, single=False) for n in (1, 10, 50, 3000)]
    errors = [float(quadratic.error(solution.weight)) for solution in found]
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(found[-1].weight, best, rtol=1e-5, atol=0)
    long = admm(problem, iterations=3000, single=False)
    best = least_squares(quadratic, long.mask)
    torch.testing.assert_close(long.weight, best, rtol=1e-5, atol=0)


def test_is_better_than_a_refit_of_magnitude_on_correlated_inputs(make_layer):
    for seed in range(5):
        problem = make_layer(rows=32, columns=32, samples=400, density=0.3, seed=seed).problem
        assert problem.error(admm(problem).weight) < problem.error(refit(problem).weight)


@pytest.mark.parametrize("pattern", ["element", "2:4", "1x4"])
def test_single_precision_is_enough_for_its_iterations(make_layer, pattern):
    """The inputs span six orders of magnitude here, and the errors agree to six digits."""
    for seed in range(5):
        problem = make_layer(rows=32, columns=64, samples=50, pattern=pattern, seed=seed).problem
        scale = torch.logspace(-3, 3, 64, dtype=torch.float64)
        wide = replace(
            problem,
            gram=problem.gram * scale * scale[:, None],
            cross=problem.cross * scale,
            weight=problem.weight / scale,
        )
        one, two = admm(wide), admm(wide, single=False)
        assert torch.equal(one.mask, two.mask)
        assert one.weight.dtype == torch.float64
        assert wide.error(one.weight) == pytest.approx(wide.error(two.weight), rel=1e-6)


def test_another_set_of_weights(make_layer):
    """Signs with one size: a set that no mask describes."""
    problem = make_layer().problem

    def binary(values, mask):
        size = values[mask].abs().mean()
        return torch.where(mask, values.sign() * size, 0.0)

    weight = admm(problem, project=binary).weight * problem.energy.sqrt()
    sizes = weight[weight != 0].abs()
    torch.testing.assert_close(sizes, sizes[:1].expand_as(sizes))


def test_options_without_sense_are_refused(make_layer):
    problem = make_layer().problem
    with pytest.raises(ValueError, match="rho must be a positive number, got 0"):
        admm(problem, rho=0)
    with pytest.raises(ValueError, match="at least 1, got 0 and 15"):
        admm(problem, iterations=0)
    with pytest.raises(ValueError, match="at least 1, got 20 and 0"):
        admm(problem, chosen=0)
    with pytest.raises(ValueError, match="'dense' or 'optimum', got 'zero'"):
        admm(problem, start="zero")
