"""New values for the weights of masks that were found elsewhere."""

import pytest
import torch
from torch import Tensor, nn

from robustprune.layerwise import prune_layerwise
from robustprune.search import prune_one_shot
from robustprune.sparsity import MaskSet

FEW = pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, generator=generator)
    return [(x[:120], torch.zeros(120).long()), (x[120:], torch.zeros(80).long())]


def masks_of(model: nn.Module, density: float = 0.4, **options: object) -> MaskSet:
    return prune_one_shot(model, density=density, **options).masks  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["refit", "admm", "dsnot"])
def test_masks_are_taken_as_they_are(solver: str) -> None:
    model = network()
    masks = masks_of(model)
    options = {"cycles": 0} if solver == "dsnot" else {}
    ticket = prune_layerwise(model, data(), masks=masks, solver=solver, **options)
    assert ticket.masks == masks
    assert [record.layer for record in ticket.history] == list(masks)


def test_least_squares_layer_by_layer_by_hand() -> None:
    model = network()
    masks = masks_of(model)
    ticket = prune_layerwise(model, data(), masks=masks, solver="refit", ridge=0.0)
    x = torch.cat([part for part, _ in data()]).double()
    wanted, seen = x, x
    for index in (0, 2, 4):
        layer = model[index].double()
        target = wanted @ layer.weight.T  # of the dense network
        mask = masks[f"{index}.weight"]
        weight = torch.zeros_like(layer.weight)
        for row in range(len(weight)):
            kept = mask[row]
            if kept.any():
                solved = torch.linalg.lstsq(seen[:, kept], target[:, row : row + 1]).solution
                weight[row, kept] = solved[:, 0]
        found = ticket.model[index].weight.detach().double()
        torch.testing.assert_close(found, weight.detach(), atol=1e-5, rtol=1e-4)
        wanted, seen = target + layer.bias, seen @ found.T + layer.bias
        if index < 4:
            wanted, seen = wanted.relu(), seen.relu()


def test_it_repairs_what_a_mask_of_magnitude_breaks() -> None:
    model = network()
    x = data()[0][0] @ torch.randn(6, 2) @ torch.randn(2, 6)  # dependent inputs stand in for others
    cut = prune_one_shot(model, density=0.4)
    mended = prune_layerwise(
        model, [(x, torch.zeros(len(x)).long())], masks=cut.masks, solver="refit"
    )
    with torch.no_grad():
        far, near = ((m(x) - model(x)).square().mean() for m in (cut.model, mended.model))
    assert near < 0.5 * far


def test_layers_without_a_mask_stay_as_they_are() -> None:
    model = network()
    masks = masks_of(model, dense=("0",))
    assert "0.weight" not in masks
    ticket = prune_layerwise(model, data(), masks=masks, solver="refit")
    assert torch.equal(ticket.model[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give `density`"),
        ({"masks": True, "density": 0.5}, "density=0.5 has no effect"),
        ({"masks": True, "pattern": "2:4"}, "pattern='2:4' has no effect"),
        ({"masks": True, "allocate": "erk"}, "allocate='erk' has no effect"),
        ({"masks": True, "dense": ("0",)}, "dense=.* has no effect"),
        ({"masks": True, "solver": "omp"}, "'omp' chooses masks itself"),
        ({"masks": "other"}, "no layer of that name"),
        ({"masks": "shape"}, "must have the shape"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict, said: str) -> None:
    model = network()
    asked = {"solver": "refit", **options}
    if asked.get("masks") is True:
        asked["masks"] = masks_of(model)
    elif "masks" in asked:
        name = "9.weight" if asked["masks"] == "other" else "0.weight"
        asked["masks"] = MaskSet({name: torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=said):
        prune_layerwise(model, data(), **asked)
