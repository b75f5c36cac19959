"""The weights that matter on one set of data alone, where they are known."""

import pytest
import torch
from torch import Tensor, nn

from robustprune.layerwise import set_difference
from robustprune.sparsity import apply_masks


def batches(columns: slice, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Inputs that are large in some columns only."""
    x = 0.01 * torch.randn(64, 8, generator=torch.Generator().manual_seed(seed))
    x[:, columns] *= 100
    return [(x[:32], torch.zeros(32, dtype=torch.long)), (x[32:], torch.zeros(32).long())]


def test_the_weights_of_the_first_sets_own_inputs_are_removed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5)).train()
    with torch.no_grad():
        model[0].weight.copy_(torch.where(torch.rand(5, 8) < 0.5, 1.0, -1.0))
    first, second = batches(slice(0, 4)), batches(slice(2, 6), seed=1)
    masks = set_difference(model, first, second, top=0.5, rest=0.5)
    kept = masks["0.weight"]
    assert not kept[:, :2].any()  # large on the first set alone
    assert kept[:, 2:].all()  # large on both, on the second, or on neither
    assert model.training
    x = [part[0][0] for part in (first, second)]
    before = [model(one).detach() for one in x]
    apply_masks(model, masks)
    change = [(model(one) - was).norm() for one, was in zip(x, before, strict=True)]
    assert change[0] > 20 * change[1]


def test_of_one_set_beside_itself_nothing_is_removed() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    data = batches(slice(0, 4))
    assert set_difference(model, data, data, top=0.2, rest=0.4).density == 1.0
    masks = set_difference(model, data, data, top=0.8, rest=0.2)
    # 6 of 8, and 4 of 5, less 1 in each row
    assert [(~masks[name]).sum(1).unique().tolist() for name in masks] == [[5], [3]]
    assert "2.weight" not in set_difference(model, data, data, dense=("last",))


def test_refusals() -> None:
    model, data = nn.Sequential(nn.Linear(8, 5)), batches(slice(0, 4))
    with pytest.raises(ValueError, match=r"top=0 must be in \(0, 1\]"):
        set_difference(model, data, data, top=0)
    with pytest.raises(ValueError, match=r"rest=1.5 must be in \(0, 1\]"):
        set_difference(model, data, data, rest=1.5)
