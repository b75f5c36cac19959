"""Twin-Rep: products by hand, their gradients, the cut, and the merged network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import (
    Checkpoint,
    EpochRecord,
    Natural,
    OptimizerSpec,
    Validation,
    masks_of,
    set_masks,
)
from robustprune.search import prune_twin
from robustprune.search.twin import Twin, TwinCut, make_twins
from robustprune.sparsity import MaskSet, bake, count_kept, groups_of, maskable_layers

Batches = list[tuple[Tensor, Tensor]]
Make = Callable[[], nn.Module]


def twins(model: nn.Module) -> dict[str, tuple[nn.Parameter, Twin]]:
    """u and the parametrization with v and m, by name of the weight."""
    return {
        f"{path}.weight": (layer.parametrizations.weight.original, layer.parametrizations.weight[0])  # type: ignore[union-attr, index]
        for path, layer in model.named_modules()
        if hasattr(layer, "parametrizations")
    }


@pytest.fixture
def twin(make_network: Make) -> nn.Module:
    """A network of products, of which a third is removed at random."""
    network = make_network()
    make_twins(maskable_layers(network), seed=1)
    draw = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(u.shape, generator=draw) > 1 / 3 for n, (u, _) in twins(network).items()}
    set_masks(network, MaskSet(masks), torch.optim.SGD(network.parameters(), lr=0.1))
    return network


def test_u_is_the_weight_and_v_is_drawn_as_torch_draws(make_network: Make) -> None:
    model, network = make_network(), make_network()
    make_twins(maskable_layers(network), seed=1)
    found = twins(network)
    assert found.keys() == maskable_layers(model).keys()
    for name, (u, part) in found.items():
        assert torch.equal(u, model.get_parameter(name))
        bound = (u[0].numel()) ** -0.5
        assert bound * 0.8 < part.factor.abs().max() <= bound
        assert abs(part.factor.mean()) < bound / 2
        assert part.mask.all()
    again = make_network()
    make_twins(maskable_layers(again), seed=1)
    other = make_network()
    make_twins(maskable_layers(other), seed=2)
    for name, (_, part) in found.items():
        assert torch.equal(part.factor, twins(again)[name][1].factor)
        assert not torch.equal(part.factor, twins(other)[name][1].factor)


def test_factors_are_independent_of_a_network_of_the_same_seed() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(100, 100))
    make_twins(maskable_layers(network), seed=0)
    ((u, part),) = twins(network).values()
    both = torch.stack([u.detach().flatten(), part.factor.detach().flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.05
    assert abs((u * part.factor > 0).float().mean() - 0.5) < 0.05


def test_the_merged_network_is_the_twin_network(twin: nn.Module, batches: Batches) -> None:
    before = [twin.eval()(x) for x, _ in batches]
    masks = masks_of(twin)
    products = {n: u * part.factor * part.mask for n, (u, part) in twins(twin).items()}
    merged = bake(copy.deepcopy(twin))
    for output, (x, _) in zip(before, batches, strict=True):
        assert torch.equal(merged(x), output)
    names = {name for name, _ in merged.named_parameters()}
    assert not any("factor" in name or "original" in name for name in names)
    for name, product in products.items():
        assert torch.equal(merged.get_parameter(name), product)
        assert (product[~masks[name]] == 0).all()


def test_gradients_are_those_of_the_weight_times_the_other_factor(
    twin: nn.Module, batches: Batches
) -> None:
    x, y = batches[0]
    merged = bake(copy.deepcopy(twin))
    for network in (twin, merged):
        network.train()
        nn.functional.cross_entropy(network(x), y).backward()
    for name, (u, part) in twins(twin).items():
        g = merged.get_parameter(name).grad * part.mask
        torch.testing.assert_close(u.grad, g * part.factor)
        torch.testing.assert_close(part.factor.grad, g * u)


def test_the_cut_by_hand() -> None:
    """|u v| = 2, 3, 1, 4 and not |u| or |v|."""
    layer = nn.Linear(4, 1, bias=False)
    make_twins({"weight": layer}, seed=0)
    part = layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.tensor([[4.0, 1.0, -9.0, -2.0]]))  # type: ignore[union-attr, index]
        part.factor.copy_(torch.tensor([[0.5, -3.0, 1 / 9, 2.0]]))
    cut = TwinCut({"weight": layer}, density=0.5, pattern="element", allocate="layer", epoch=2)
    cut.bind(layer, torch.optim.SGD(layer.parameters(), lr=1.0), 1, 3)
    assert cut.after_epoch(layer, 1) == {"density": 1.0}
    assert cut.after_epoch(layer, 2) == {"density": 0.5}
    assert cut.masks(layer)["weight"].tolist() == [[False, True, False, True]]
    assert layer.weight.tolist() == [[0.0, -3.0, 0.0, -4.0]]


@pytest.mark.parametrize(
    ("pattern", "allocate"),
    [
        ("element", "layer"), ("element", "global"), ("element", "erk"), ("channel", "layer"),
        ("filter", "global"), ("2:4", "layer"),
    ],
)  # fmt: skip
def test_counts_are_exact_and_the_mask_stays(
    make_network: Make, batches: Batches, pattern: str, allocate: str
) -> None:
    model = make_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack = PGD(ThreatModel("linf", 0.1), steps=2)
    options: dict = {"density": 0.5, "attack": attack, "pattern": pattern, "allocate": allocate}
    torch.manual_seed(0)
    found = prune_twin(model, batches, **options, epochs=4, cut=0.25, quiet=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    kept, total = 0, 0
    for name, groups in groups_of(maskable_layers(model), pattern).items():
        mask, weight = found.masks[name], found.model.get_parameter(name)
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != 0).all()
        inside = int((groups.reduce(mask.float()) > 0).sum())
        kept, total = kept + inside, total + groups.number
        if allocate == "layer":
            assert inside == (groups.fixed or count_kept(0.5, groups.number))
    assert allocate == "layer" or kept == count_kept(0.5, total)
    assert [r.figures["density"] for r in found.history] == [found.masks.density] * 4


def test_it_learns_beside_layers_that_stay_dense(make_network: Make, batches: Batches) -> None:
    spec = OptimizerSpec(lr=0.1, weight_decay=5e-4)
    found = prune_twin(
        make_network(), batches, density=0.3, objective=Natural(), epochs=40, optimizer=spec,
        dense=("first", "last"), quiet=True,
    )  # fmt: skip
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert (found.model.eval()(x).argmax(1) == y).float().mean() > 0.9
    assert set(found.masks) == {"3.weight"}


@pytest.mark.parametrize("epochs", [1, 3])
def test_resumed_bit_for_bit(
    make_network: Make, batches: Batches, tmp_path: Path, epochs: int
) -> None:
    """Before and after the cut, which comes after epoch 2."""

    class Stop(Exception):
        pass

    def stop(record: EpochRecord) -> None:
        if record.epoch == epochs:
            raise Stop

    options: dict = {
        "density": 0.4, "objective": Natural(), "epochs": 5, "cut": 0.4, "seed": 3, "quiet": True,
        "average": 0.9,
    }  # fmt: skip
    whole = prune_twin(make_network(), batches, **options)
    place = Checkpoint(tmp_path / "c.safetensors", seconds=0)
    with pytest.raises(Stop):
        prune_twin(make_network(), batches, **options, checkpoint=place, on_epoch=stop)
    resumed = prune_twin(make_network(), batches, **options, checkpoint=place)
    assert resumed.masks == whole.masks
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": 0.0}, "cut=0.0 of epochs=4 must leave an epoch before it and one after it"),
        ({"cut": 0.95}, r"cut=0\.95 of epochs=4 must leave"),
        ({"epochs": 1}, "cut=0.1 of epochs=1 must leave"),
        ({"density": 1.5}, r"density must be in \(0, 1\]"),
        ({"objective": Natural()}, "give either `attack` or `objective`"),
    ],
)
def test_what_has_no_meaning_is_refused(
    make_network: Make, batches: Batches, options: dict, message: str
) -> None:
    attack = PGD(ThreatModel("linf", 0.1), steps=1)
    given = {"density": 0.5, "attack": attack, "epochs": 4, **options}
    with pytest.raises(ValueError, match=message):
        prune_twin(make_network(), batches, **given)
    with pytest.raises(ValueError, match="before the network is sparse"):
        prune_twin(
            make_network(), batches, density=0.5, attack=attack, epochs=4, quiet=True,
            validation=Validation(loader=batches),
        )  # fmt: skip
