"""Masks and copies that large networks can afford."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor, nn

from robustprune.minmax import Natural, OptimizerSpec, train
from robustprune.minmax.average import WeightAverage, snapshot
from robustprune.run.fingerprint import digest_of
from robustprune.search import find_lottery_ticket, find_scratch_ticket, prune_admm, prune_scores
from robustprune.sparsity import MaskSet, apply_masks, bake

MASK = torch.tensor([[True, False, True], [False, True, True]])


def masked() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    apply_masks(model, MaskSet({"0.weight": MASK}))
    return model


def mask_of(model: nn.Module) -> Tensor:
    return model.get_buffer("0.parametrizations.weight.0.mask")


def test_an_average_takes_masks_as_they_are() -> None:
    """An entry that has grown is whole in the average, and one that is dropped is gone."""
    model = masked()
    average = WeightAverage(model, 0.999)
    for step in range(5):
        with torch.no_grad():
            mask_of(model).copy_(MASK if step < 3 else ~MASK)
        average.update(model)
    with average.swapped_in(model):
        assert torch.equal(mask_of(model), ~MASK)
        assert bool((model[0].weight[MASK] == 0).all())
    model.to(torch.bfloat16)
    assert mask_of(model).dtype == torch.bool
    assert model(torch.rand(4, 3).bfloat16()).dtype == torch.bfloat16


def test_states_of_older_versions_are_read() -> None:
    """Their masks are of the weight's type."""
    model, state = masked(), masked().state_dict()
    name = "0.parametrizations.weight.0.mask"
    state[name] = (~MASK).float()
    model.load_state_dict(state)
    assert torch.equal(mask_of(model), ~MASK)
    total = hashlib.sha256()
    for key, value in state.items():
        total.update(f"\0{key}\0torch.float32{tuple(value.shape)}".encode())
        total.update(value.numpy().tobytes())
    assert digest_of(model) == total.hexdigest()[:16]


def test_a_snapshot_shares_only_what_cannot_change() -> None:
    model = masked().append(nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    taken = snapshot(model)
    own, frozen = model.state_dict(), "0.parametrizations.weight.original"
    same = [name for name in own if taken[name].data_ptr() == own[name].data_ptr()]
    assert same == [frozen]
    with torch.no_grad():
        model[0].bias.add_(1)  # frozen for the optimizer, but in reach of the network's own code
        model[1].weight.add_(1)
    places = {name: value.data_ptr() for name, value in taken.items()}
    assert not torch.equal(taken["0.bias"], model[0].bias)
    again = snapshot(model, taken)
    assert {name: value.data_ptr() for name, value in again.items()} == places
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["rst", "hydra", "harp", "admm", "lottery"])
@pytest.mark.parametrize("allocate", ["layer", "row", "global"])
def test_searches_of_bfloat16_networks_keep_what_they_say(name: str, allocate: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)).bfloat16()
    data = [(torch.randn(12, 10).bfloat16(), torch.arange(12) % 4)]
    find = {
        "rst": find_scratch_ticket, "hydra": prune_scores, "harp": prune_scores,
        "admm": prune_admm, "lottery": find_lottery_ticket,
    }[name]  # fmt: skip
    options: dict = {"harp": {"method": "harp"}, "admm": {"every": 1}}.get(name, {})
    options |= {"objective": Natural(), "epochs": 1, "quiet": True, "allocate": allocate}
    if name == "harp" and allocate == "row":
        with pytest.raises(ValueError, match=r"harp learns what each layer keeps.*has no effect"):
            find(model, data, density=0.3, **options)
        return
    ticket = find(model, data, density=0.3, **options)
    assert ticket.model[0].weight.dtype == torch.bfloat16
    if allocate == "row":  # ⌈0.3 · 10⌉ and ⌈0.3 · 8⌉ of every output
        assert ticket.masks["0.weight"].sum(1).tolist() == [3] * 8
        assert ticket.masks["2.weight"].sum(1).tolist() == [3] * 4
    elif allocate == "layer" and name != "harp":
        assert [layer.kept for layer in ticket.masks.layers()] == [24, 10]
    else:
        assert ticket.masks.kept == 34


def test_the_best_epoch_is_what_is_returned_though_copies_are_made_in_place() -> None:
    """The second of four epochs is the best; later ones write into the same memory."""
    model, seen = masked(), []
    data = [(torch.rand(6, 3), torch.arange(6) % 2)]

    class Choice:
        """Stands for a validation: accuracies as they are given."""

        loader, every, patience = data, 1, None

        def measured(self, model: nn.Module, device: torch.device) -> tuple[float, None, float]:
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
            return [0.2, 0.9, 0.5, 0.7][len(seen) - 1], None, 1.0

    train(
        model, data, Natural(), optimizer=OptimizerSpec(lr=0.5), epochs=4, quiet=True,
        validation=Choice(),  # type: ignore[arg-type]
    )  # fmt: skip
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert bool((bake(model)[0].weight[~MASK] == 0).all())  # type: ignore[index]
