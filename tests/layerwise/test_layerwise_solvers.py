"""What every solver must hold to, under every pattern."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustprune.layerwise import prune_layerwise
from robustprune.layerwise.moments import Moments
from robustprune.layerwise.problem import LayerProblem
from robustprune.layerwise.scores import magnitude
from robustprune.layerwise.solvers import SOLVERS
from robustprune.sparsity import Groups, group_weight

PATTERNS = ("element", "row", "kernel", "filter", "channel", "column", "2x3", "1x4", "2:4", "1:3")
SINGLE = ("element", "2:4", "1:3")


def check(solver, problem):
    solution = SOLVERS[solver].solve(problem)
    weight, mask = solution.weight, solution.mask
    assert mask.shape == weight.shape == problem.weight.shape
    assert mask.dtype == torch.bool
    assert weight.dtype == problem.weight.dtype
    assert bool(weight.isfinite().all())
    assert bool((weight[~mask] == 0).all())
    g = problem.groups
    members = g.reduce(g.lay_back(torch.ones_like(weight).reshape(g.laid_out)))
    inside = g.reduce(g.lay_back(mask.to(weight.dtype).reshape(g.laid_out)))
    assert bool(((inside == 0) | (inside == members)).all())  # whole groups
    assert int((inside > 0).sum()) == problem.kept
    # and N:M, rows and ties as the pattern has them: a choice by the mask is the mask
    assert torch.equal(problem.choose(mask.to(weight.dtype)), mask)
    if not SOLVERS[solver].changes_weights:
        assert torch.equal(weight, problem.weight * mask)
    return solution


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=25)
@given(
    pattern=st.sampled_from(PATTERNS),
    by_row=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([(), (2,), (2, 3)]),
    rows=st.sampled_from([2, 4]),
    columns=st.integers(1, 7),
    density=st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.0]),
    target=st.sampled_from(["own", "other"]),
    samples=st.sampled_from([10, 80]),
    dead=st.sampled_from([0, 1]),
    seed=st.integers(0, 99),
)
def test_counts_patterns_and_dtypes(make_layer, solver, pattern, by_row, rows, columns, **options):
    shape = (rows * options["groups"], columns, *options["kernel"])
    if SOLVERS[solver].single and pattern not in SINGLE:
        pattern = "element"
    by_row = by_row and Groups(shape, pattern, options["groups"]).in_row is not None
    layer = make_layer(rows, columns, pattern=pattern, by_row=by_row, **options)
    check(solver, layer.problem)


@pytest.mark.parametrize(
    ("solver", "target"),
    [
        (name, target)
        for name, row in SOLVERS.items()
        for target in ("own", "other")
        # basis pursuit is for targets that can be met
        if row.changes_weights and (name, target) != ("basis_pursuit", "other")
    ],
)
@pytest.mark.parametrize("pattern", ["element", "2:4", "1x4", "column", "filter"])
def test_better_than_magnitude(make_layer, solver, pattern, target):
    for seed in range(3):
        problem = make_layer(12, 24, pattern=pattern, target=target, seed=seed).problem
        solution = SOLVERS[solver].solve(problem)
        assert problem.error(solution.weight) <= problem.error(magnitude(problem).weight) * 1.02


@pytest.mark.parametrize(
    ("solver", "pattern", "by_row"),
    [
        (name, pattern, by_row)
        for name, row in SOLVERS.items()
        for pattern, by_row in (("2:4", False), ("element", True), ("1x3", True))
        if pattern in SINGLE or not row.single
    ],
)
def test_groups_of_a_convolution_are_problems_of_their_own(make_layer, solver, pattern, by_row):
    layer = make_layer(4, 8, groups=3, pattern=pattern, by_row=by_row, target="other")
    together, whole = SOLVERS[solver].solve(layer.problem), layer.problem
    for i in range(3):
        alone = LayerProblem(
            whole.weight[i : i + 1],
            whole.gram[i : i + 1],
            whole.cross[i : i + 1],
            layer.targets[i].square().sum(),
            whole.samples,
            Groups((4, 8), pattern, by_row=by_row),
            whole.kept // 3,
            None if whole.mean is None else whole.mean[i : i + 1],
            None if whole.variance is None else whole.variance[i : i + 1],
        )
        solution = SOLVERS[solver].solve(alone)
        assert torch.equal(solution.mask, together.mask[i : i + 1])
        torch.testing.assert_close(solution.weight, together.weight[i : i + 1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_twice(make_layer, solver):
    problem = make_layer(target="other").problem
    one, two = SOLVERS[solver].solve(problem), SOLVERS[solver].solve(problem)
    assert torch.equal(one.weight, two.weight)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_say_what_a_solver_reads(make_layer, solver):
    own, other = make_layer(dead=1).problem, make_layer(dead=1, target="other").problem
    row = SOLVERS[solver]
    same = torch.equal(row.solve(own).weight, row.solve(other).weight)
    assert same is not row.needs_cross
    assert row.summary
    assert row.solve.__doc__


@pytest.mark.parametrize("solver", SOLVERS)
def test_fewer_examples_than_inputs(make_layer, solver):
    problem = make_layer(8, 24, samples=6, target="other", by_row=True).problem
    check(solver, problem)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_solver_prunes_a_network(solver, dtype):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3)
    )
    data = [(torch.rand(40, 2, 8), torch.zeros(40, dtype=torch.long))]
    ticket = prune_layerwise(network, data, density=0.5, solver=solver, dtype=dtype)
    assert {name: int(mask.sum()) for name, mask in ticket.masks.items()} == {
        "0.weight": 12,
        "2.weight": 12,
        "4.weight": 24,
    }


def test_moments_hold_the_mean_and_the_variance_of_inputs():
    """A convolution's patches, against torch's unfold."""
    layer = nn.Conv2d(3, 2, (2, 3), stride=2)
    groups = group_weight(layer)
    moments = Moments(layer, groups, dtype=torch.float64)
    x = torch.rand(5, 3, 7, 9) + 1
    moments.add(x[:2], {})
    moments.add(x[2:], {})
    problem = moments.problem("", groups, layer.weight.detach(), 4)
    patches = nn.functional.unfold(x.double(), (2, 3), stride=2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(problem.mean[0], patches.mean(0))
    torch.testing.assert_close(problem.variance[0], patches.var(0, correction=0))
    assert (problem.examples, problem.samples) == (5, len(patches))


@pytest.mark.parametrize("solver", ["refit", "admm", "sparsegpt", "dsnot"])
def test_a_mask_of_another_shape_is_refused(make_layer, solver):
    problem = make_layer(3, 4).problem
    for mask in (torch.ones(1, 4, 3, dtype=torch.bool), torch.ones(1, 3, 4)):
        with pytest.raises(ValueError, match=r"boolean and have the shape \(1, 3, 4\)"):
            SOLVERS[solver].solve(problem, mask)
