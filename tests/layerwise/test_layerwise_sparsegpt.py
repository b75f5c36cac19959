import numpy as np
import pytest
import torch

from robustprune.layerwise.refit import refit
from robustprune.layerwise.scores import wanda
from robustprune.layerwise.sparsegpt import sparsegpt


def column_by_column(hessian, weight, choose):
    """The paper's equations with an inverse of its own for every column: column i is
    pruned, and those to its right make up for it. choose(i, weights, scale) -> kept or None, from
    column i on."""
    W, (rows, columns) = weight.copy(), weight.shape
    kept = np.ones((rows, columns), dtype=bool)
    scale = np.array([np.linalg.inv(hessian[i:, i:])[0, 0] for i in range(columns)])
    for i in range(columns):
        new = choose(i, W, scale)
        if new is not None:
            kept[:, i : i + new.shape[1]] = new
        inverse = np.linalg.inv(hessian[i:, i:])
        error = np.where(kept[:, i], 0, W[:, i])
        W[:, i:] -= np.outer(error, inverse[0] / inverse[0, 0])
        W[:, i] = np.where(kept[:, i], W[:, i], 0)
    return W, kept


def by_block(block, kept, columns, by_row):
    def choose(i, W, scale):
        if i % block:
            return None
        end = min(i + block, columns)
        count = kept * end // columns - kept * i // columns
        score = W[:, i:end] ** 2 / scale[i:end]
        if by_row:
            return score >= np.sort(score, axis=1)[:, [-count]]
        return score >= np.sort(score.flatten())[-count]

    return choose


@pytest.mark.parametrize("target", ["own", "other"])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("block", [5, 8, 128])
def test_is_the_loop_of_its_equations(make_layer, target, by_row, block):
    problem = make_layer(by_row=by_row, target=target).problem
    quadratic = problem.quadratic(0.01, by="mean")
    kept = 8 if by_row else 48
    truth, mask = column_by_column(
        quadratic.hessian[0].numpy(),
        quadratic.optimum[0].numpy(),
        by_block(block, kept, 16, by_row),
    )
    solution = sparsegpt(problem, block=block)
    assert np.array_equal(solution.mask[0].numpy(), mask)
    np.testing.assert_allclose(solution.weight[0].numpy(), truth, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("columns", [16, 15, 6, 2])
@pytest.mark.parametrize("block", [3, 8, 128])
def test_nm_is_chosen_on_updated_weights(make_layer, columns, block):
    """With columns that 4 doesn't divide too, and blocks of columns that end anywhere."""
    problem = make_layer(columns=columns, pattern="2:4").problem

    def choose(i, W, scale):
        if i % 4:
            return None
        score = W[:, i : i + 4] ** 2 / scale[i : i + 4]
        keep = -(-score.shape[1] // 2)
        return score >= np.sort(score, axis=1)[:, [-keep]]

    quadratic = problem.quadratic(0.01, by="mean")
    truth, mask = column_by_column(
        quadratic.hessian[0].numpy(), quadratic.optimum[0].numpy(), choose
    )
    solution = sparsegpt(problem, block=block)
    assert np.array_equal(solution.mask[0].numpy(), mask)
    np.testing.assert_allclose(solution.weight[0].numpy(), truth, rtol=1e-8, atol=1e-10)


def test_nm_of_a_kernel_runs_over_its_inputs(make_layer):
    """A 1×1 kernel's problem, its columns repeated at a second place of weight zero."""
    one = make_layer(columns=8, pattern="2:4").problem
    two = make_layer(columns=8, kernel=(2,), pattern="2:4").problem
    gram = torch.zeros_like(two.gram)
    gram[:, ::2, ::2] = one.gram
    gram[:, 1::2, 1::2] = one.gram
    weight = torch.stack([one.weight, 2 * one.weight], -1).flatten(2)
    both = type(two)(weight, gram, weight @ gram, 5 * one.power, one.samples, two.groups, two.kept)
    solution, truth = sparsegpt(both), sparsegpt(one)
    torch.testing.assert_close(solution.weight[..., ::2], truth.weight)
    torch.testing.assert_close(solution.weight[..., 1::2], 2 * truth.weight)


@pytest.mark.parametrize("block", [1, 4, 7, 16])
def test_blocks_change_nothing_where_the_mask_is_given(make_layer, block):
    problem = make_layer(groups=2, target="other").problem
    mask = wanda(problem).mask
    whole = sparsegpt(problem, mask)
    torch.testing.assert_close(sparsegpt(problem, mask, block=block).weight, whole.weight)
    assert torch.equal(whole.mask, mask)
    quadratic = problem.quadratic(0.01, by="mean")
    best = quadratic.error(refit(problem, mask, by="mean").weight)
    assert best <= quadratic.error(whole.weight) < quadratic.error(wanda(problem).weight)


def test_other_values_than_zero(make_layer):
    """Rounding to whole numbers (GPTQ) leaves a smaller error than rounding alone."""
    problem = make_layer(rows=32, density=1.0).problem

    def whole(values, mask):
        return torch.where(mask, values.round(), 0.0)

    weight = sparsegpt(problem, project=whole).weight
    assert torch.equal(weight, weight.round())
    assert problem.error(weight) < 0.5 * problem.error(problem.weight.round())


def test_blocks_without_columns_are_refused(make_layer):
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        sparsegpt(make_layer().problem, block=0)
