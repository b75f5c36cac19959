import numpy as np
import pytest
import torch

from robustprune.layerwise.refit import conjugate_gradients, least_squares, refit


def masks(problem, kind):
    """Supports that differ by row in size and place, are shared by rows, or are empty."""
    random = torch.Generator().manual_seed(1)
    mask = torch.rand(problem.weight.shape, generator=random) < 0.5
    if kind == "shared":
        mask[:] = mask[:, :1]
    elif kind == "pairs":
        mask[:, 1::2] = mask[:, ::2]
    elif kind == "empty":
        mask[:, 1:3] = False
    return mask


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", ["own", "shared", "pairs", "empty"])
def test_equals_lstsq_row_by_row(make_layer, groups, kind):
    layer = make_layer(groups=groups, target="other")
    mask = masks(layer.problem, kind)
    weight = refit(layer.problem, mask, ridge=0).weight
    for g in range(groups):
        for row in range(6):
            on = mask[g, row].numpy()
            x, t = layer.inputs[g].numpy()[on], layer.targets[g, row].numpy()
            truth = np.linalg.lstsq(x.T, t, rcond=None)[0]
            np.testing.assert_allclose(weight[g, row].numpy()[on], truth, rtol=1e-7)
    assert bool((weight[~mask] == 0).all())


def test_pieces_of_memory_change_nothing(make_layer):
    problem = make_layer(groups=2).problem
    mask, quadratic = masks(problem, "empty"), problem.quadratic(0.1)
    whole = least_squares(quadratic, mask)
    torch.testing.assert_close(least_squares(quadratic, mask, memory=1), whole)
    torch.testing.assert_close(least_squares(quadratic, mask, memory=3000), whole)


def test_conjugate_gradients_arrive_there(make_layer):
    layer = make_layer(groups=2, target="other")
    mask, quadratic = masks(layer.problem, "empty"), layer.problem.quadratic(0.1)
    start = torch.zeros_like(layer.problem.weight)
    found = conjugate_gradients(quadratic, mask, start, 200, tolerance=1e-12)
    torch.testing.assert_close(found, least_squares(quadratic, mask), rtol=1e-6, atol=1e-9)
    errors = [
        float(quadratic.error(conjugate_gradients(quadratic, mask, start, n))) for n in range(5)
    ]
    assert errors == sorted(errors, reverse=True)
    by_option = refit(layer.problem, mask, ridge=0.1, exact=1, tolerance=1e-10).weight
    assert layer.problem.error(by_option) < layer.problem.error(start)


@pytest.mark.parametrize("target", ["own", "other"])
def test_no_weights_on_the_support_are_better(make_layer, target):
    layer = make_layer(target=target)
    mask = masks(layer.problem, "own")
    best = layer.error(refit(layer.problem, mask, ridge=0).weight)
    for weight in (layer.problem.weight, torch.randn_like(layer.problem.weight)):
        assert best <= layer.error(weight * mask)


def test_the_oracle_finds_a_sparse_truth_from_few_samples(make_layer):
    layer = make_layer(rows=4, columns=30, samples=12)
    mask = torch.zeros(1, 4, 30, dtype=torch.bool)
    mask[..., 3:8] = True
    truth = layer.problem.weight * mask
    problem = type(layer.problem)(
        layer.problem.weight,
        layer.problem.gram,
        truth @ layer.problem.gram,
        (truth @ layer.inputs).square().sum(),
        12,
        layer.problem.groups,
        20,
    )
    torch.testing.assert_close(refit(problem, mask, ridge=0).weight, truth)
    with pytest.raises(ValueError, match="singular"):
        refit(problem, torch.ones_like(mask), ridge=0)


def test_a_mask_of_another_shape_is_refused(make_layer):
    problem = make_layer().problem
    with pytest.raises(ValueError, match=r"boolean and have the shape \(1, 6, 16\), got \(6, 16\)"):
        refit(problem, torch.ones(6, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="float32"):
        refit(problem, torch.ones(1, 6, 16))
