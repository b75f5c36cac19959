from dataclasses import replace

import pytest
import torch

from robustprune.layerwise.problem import LayerProblem
from robustprune.layerwise.scores import choose_by, magnitude, ria, wanda
from robustprune.sparsity import Groups


def by_hand(kept=2, by_row=False):
    """Weights (1 2 3; 6 5 4), inputs of norm 4, 1, 2."""
    weight = torch.tensor([[[1.0, -2.0, 3.0], [6.0, 5.0, -4.0]]])
    gram = torch.diag(torch.tensor([16.0, 1.0, 4.0]))[None]
    groups = Groups((2, 3), "element", by_row=by_row)
    return LayerProblem(weight, gram, weight @ gram, torch.tensor(1.0), 9, groups, kept)


@pytest.mark.parametrize(
    ("solve", "by_row", "mask"),
    [
        (magnitude, False, [[0, 0, 0], [1, 1, 0]]),
        (magnitude, True, [[0, 0, 1], [1, 0, 0]]),
        (wanda, False, [[0, 0, 0], [1, 0, 1]]),  # 4 2 6; 24 5 8
        (wanda, True, [[0, 0, 1], [1, 0, 0]]),
        # 1/7+1/6 2/7+2/6 3/7+3/6; 6/7+6/15 5/7+5/15 4/7+4/15, times 2, 1, √2
        (ria, False, [[0, 0, 1], [1, 0, 0]]),
    ],
)
def test_masks_by_hand(solve, by_row, mask):
    problem = by_hand(by_row=by_row)
    solution = solve(problem)
    wanted = torch.tensor([mask]).bool()
    assert torch.equal(solution.mask, wanted)
    assert torch.equal(solution.weight, problem.weight * wanted)


def test_wanda_by_row_rounds_the_count_of_a_layer_up():
    for kept, mask in (
        (1, [[0, 0, 1], [1, 0, 0]]),  # 4 2 6; 24 5 8
        (2, [[0, 0, 1], [1, 0, 0]]),
        (3, [[1, 0, 1], [1, 0, 1]]),
        (6, [[1, 1, 1], [1, 1, 1]]),
    ):
        assert wanda(by_hand(kept), by_row=True).mask.int().tolist() == [mask]
    with pytest.raises(ValueError, match="column"):
        wanda(replace(by_hand(1), groups=Groups((2, 3), "column"), kept=1), by_row=True)


def test_ria_without_activations_is_the_relative_importance():
    problem = by_hand(kept=3)
    # 0.310 0.619 0.929; 1.257 1.048 0.838
    assert ria(problem, power=0).mask.int().tolist() == [[[0, 0, 1], [1, 1, 0]]]


def test_a_layer_of_zeros_has_scores():
    problem = replace(by_hand(), weight=torch.zeros(1, 2, 3))
    assert int(ria(problem).mask.sum()) == 2


def test_unknown_scores():
    with pytest.raises(ValueError, match="unknown scores 'obd'; choose one of magnitude, wanda"):
        choose_by(by_hand(), "obd")
