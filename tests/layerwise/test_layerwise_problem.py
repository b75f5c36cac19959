import math
from dataclasses import replace

import pytest
import torch

from robustprune.layerwise.problem import Quadratic


def test_error_is_that_of_the_data(make_layer):
    layer = make_layer(groups=2, target="other")
    weight = torch.randn_like(layer.problem.weight)
    truth = layer.error(weight) / float(layer.targets.square().sum())
    assert layer.problem.error(weight) == pytest.approx(truth, rel=1e-10)
    assert layer.problem.error(torch.zeros_like(weight)) == pytest.approx(1)


@pytest.mark.parametrize("by", ["input", "mean"])
def test_quadratic_is_the_problem_with_a_ridge_up_to_a_constant(make_layer, by):
    layer = make_layer(groups=2, target="other")
    problem = layer.problem
    energy = layer.inputs.square().sum(-1)
    if by == "mean":
        energy = energy.mean(-1, keepdim=True).expand_as(energy)

    def truth(weight):
        away = (weight - problem.weight).square() * energy.unsqueeze(1)
        return layer.error(weight) + 0.3 * float(away.sum())

    quadratic = problem.quadratic(0.3, by=by)
    one, two = torch.randn(2, *problem.weight.shape, dtype=torch.float64)
    least = truth(quadratic.optimum)
    assert float(quadratic.error(one)) == pytest.approx(truth(one) - least)
    assert float(quadratic.error(two)) == pytest.approx(truth(two) - least)
    assert min(truth(quadratic.optimum + 1e-3 * one), truth(quadratic.optimum - 1e-3 * two)) > least


def test_optimum_of_the_own_target_is_the_dense_weight(make_layer):
    problem = make_layer().problem
    torch.testing.assert_close(problem.quadratic(0.1).optimum, problem.weight)


def test_dead_inputs_get_no_weight(make_layer):
    problem = make_layer(dead=3).problem
    optimum = problem.quadratic(0.0).optimum
    assert bool((optimum[..., :3] == 0).all())
    torch.testing.assert_close(optimum[..., 3:], problem.weight[..., 3:])


def test_a_singular_gram_matrix_needs_a_ridge(make_layer):
    problem = make_layer(columns=16, samples=8).problem
    with pytest.raises(ValueError, match=r"second moments of 16 inputs.*larger ridge"):
        _ = problem.quadratic(0.0).optimum
    torch.testing.assert_close(problem.quadratic(1e-6).optimum, problem.weight)


def test_normalised_is_the_same_problem_in_other_units(make_layer):
    problem = make_layer(dead=1, target="other").problem
    unit, scale = problem.normalised()
    torch.testing.assert_close(unit.energy[0, 1:], torch.ones(15, dtype=torch.float64))
    weight = torch.randn_like(problem.weight)
    assert unit.error(weight * scale) == pytest.approx(problem.error(weight))


@pytest.mark.parametrize("name", ["weight", "gram", "cross", "mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(make_layer, name, value):
    problem = make_layer().problem
    wrong = getattr(problem, name).clone()
    wrong.view(-1)[3] = value
    with pytest.raises(ValueError, match=f"{name} of a layer problem holds NaN or infinity"):
        replace(problem, **{name: wrong})


def test_what_does_not_fit_together_is_refused(make_layer):
    problem = make_layer().problem
    with pytest.raises(ValueError, match=r"gram of a layer .* the shape \(1, 16, 16"):
        replace(problem, gram=problem.gram[:, :15])
    with pytest.raises(ValueError, match=r"cross of a layer problem.*float32"):
        replace(problem, cross=problem.cross.float())
    with pytest.raises(ValueError, match="can't keep 97 of 96"):
        replace(problem, kept=97)
    with pytest.raises(ValueError, match="as many in each of 6 rows"):
        replace(make_layer(by_row=True).problem, kept=47)
    with pytest.raises(ValueError, match="'2:4' keeps 48 weights, got 47"):
        replace(make_layer(pattern="2:4").problem, kept=47)
    with pytest.raises(ValueError, match="ridge must be a number from 0 on, got -1"):
        problem.quadratic(-1)
    with pytest.raises(ValueError, match="are NaN, which cannot be ordered"):
        problem.choose(torch.full_like(problem.weight, math.nan))


def test_the_error_of_a_quadratic_by_hand():
    quadratic = Quadratic(
        torch.tensor([[[2.0, 1.0], [1.0, 3.0]]]), torch.tensor([[[3.0, 4.0]]])
    )  # optimum (1, 1)
    torch.testing.assert_close(quadratic.optimum, torch.ones(1, 1, 2))
    assert float(quadratic.error(torch.tensor([[[0.0, 1.0]]]))) == pytest.approx(2)
    assert float(quadratic.error(torch.tensor([[[0.0, 0.0]]]))) == pytest.approx(7)
