"""Adapters: exact zeros, the formula, and what they are for."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustprune.lm import tune_lora
from robustprune.lm.adapters import LowRank, tune_adapters
from robustprune.minmax import Natural, OptimizerSpec
from robustprune.search import Ticket, finetune_ticket, prune_one_shot

ADAM = OptimizerSpec(name="adam", lr=1e-2, weight_decay=0.0)


def problem() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    x = torch.randn(96, 3, 8)
    y = (x[:, 0].sum(1) > 0).long() + (x[:, 1].sum(1) > 0).long()
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    return model, list(zip(x.split(16), y.split(16), strict=True))


def test_merged_weights_are_as_sparse_as_before() -> None:
    model, loader = problem()
    ticket = prune_one_shot(model, density=0.3)
    before = copy.deepcopy(ticket.model.state_dict())
    found = tune_adapters(ticket, loader, Natural(), epochs=4, optimizer=ADAM, rank=2, quiet=True)
    after = found.model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(ticket.model.state_dict()[name], before[name]) for name in before)
    for name, mask in ticket.masks.items():
        assert bool((after[name] - before[name]).any())
        assert bool((after[name][~mask] == 0).all())
        assert found.masks[name].equal(mask)
    assert all(torch.equal(after[n], before[n]) for n in before if n not in ticket.masks)
    assert found.history[-1].loss < found.history[0].loss


def test_an_adapter_begins_without_effect_and_is_the_masked_product() -> None:
    weight, mask = torch.randn(4, 5, dtype=torch.float64), torch.rand(4, 5) < 0.5
    adapter = LowRank(weight, mask, 3, 6.0, torch.Generator().manual_seed(0))
    assert torch.equal(adapter(weight), weight)
    adapter.up.data.normal_()
    wanted = weight + 2.0 * (adapter.up @ adapter.down) * mask
    assert torch.allclose(adapter(weight), wanted)


def test_adapters_at_full_rank_reach_what_training_under_the_mask_reaches() -> None:
    model, loader = problem()
    ticket = prune_one_shot(model, density=0.5)
    full = finetune_ticket(ticket, loader, Natural(), epochs=30, optimizer=ADAM, quiet=True)
    found = tune_adapters(ticket, loader, Natural(), epochs=30, optimizer=ADAM, rank=48, quiet=True)
    assert found.history[-1].loss < 2 * full.history[-1].loss < 0.5


def test_the_same_seed_gives_the_same_network() -> None:
    model, loader = problem()
    ticket = prune_one_shot(model, density=0.3)
    asked = {"objective": Natural(), "epochs": 2, "quiet": True}
    first, second, third = (tune_adapters(ticket, loader, seed=seed, **asked) for seed in (0, 0, 1))
    assert all(map(torch.equal, _weights(first), _weights(second)))
    assert not all(map(torch.equal, _weights(first), _weights(third)))


def test_plain_lora_leaves_a_layer_alone_whose_name_ends_like_that_of_another() -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, module in {
        "fc": nn.Linear(4, 4), "inner": nn.ModuleDict({"fc": nn.Linear(4, 4)}),
        "out": nn.Linear(4, 2),
    }.items():  # fmt: skip
        model.add_module(name, module)
    model.inner.forward = lambda x: model.inner["fc"](x)
    ticket = prune_one_shot(model, density=0.5, dense=("inner.fc", "out"))
    loader = [(torch.randn(8, 4), torch.arange(8) % 2)]
    found = tune_lora(ticket, loader, Natural(), epochs=1, quiet=True)
    before, after = ticket.model.state_dict(), found.model.state_dict()
    assert list(before) == list(after)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["fc.weight"]


def _weights(ticket: Ticket) -> list[Tensor]:
    return list(ticket.model.state_dict().values())


@pytest.mark.parametrize("tune", [tune_adapters, tune_lora])
@pytest.mark.parametrize(("option", "words"), [({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha")])
def test_wrong_options_are_told(tune: Callable[..., Ticket], option: dict, words: str) -> None:
    model, loader = problem()
    with pytest.raises(ValueError, match=words):
        tune(prune_one_shot(model, density=0.5), loader, Natural(), **option)


def test_plain_lora_is_the_formula_and_fills_the_zeros() -> None:
    pytest.importorskip("peft")
    model, loader = problem()
    model[0] = nn.Sequential(nn.Flatten(), nn.Linear(24, 48))
    model[1], model[4] = nn.Tanh(), nn.Tanh()  # a ReLU may be dead, and its row has no gradient
    ticket = prune_one_shot(model, density=0.3)
    before = copy.deepcopy(ticket.model.state_dict())
    asked = {"objective": Natural(), "epochs": 4, "optimizer": ADAM, "quiet": True}
    found = tune_lora(ticket, loader, rank=4, alpha=8.0, **asked)
    after = found.model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(ticket.model.state_dict()[name], before[name]) for name in before)
    assert all(torch.equal(after[n], before[n]) for n in before if n not in ticket.masks)
    for name, mask in ticket.masks.items():
        change = after[name] - before[name]
        assert int(torch.linalg.matrix_rank(change.double(), tol=1e-4)) <= 4
        assert float((after[name][~mask] == 0).double().mean()) < 0.01  # dense again
        assert bool(found.masks[name].all())
    assert found.history[-1].loss < found.history[0].loss
    again = tune_lora(ticket, loader, rank=4, alpha=8.0, **asked)
    assert all(map(torch.equal, _weights(found), _weights(again)))


def test_plain_lora_begins_without_effect() -> None:
    pytest.importorskip("peft")
    model, loader = problem()
    ticket = prune_one_shot(model, density=0.3)
    still = OptimizerSpec(name="sgd", lr=0.0, weight_decay=0.0)
    found = tune_lora(ticket, loader, Natural(), optimizer=still, quiet=True)
    assert all(map(torch.equal, _weights(found), _weights(ticket)))
