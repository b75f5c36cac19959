"""Heads and neurons are removed as a whole, and what stays makes up for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layerwise_networks import data_for, made
from torch import Tensor, nn

from robustprune.deploy import slim
from robustprune.deploy.language import language_sizes, slim_language
from robustprune.layerwise import prune_layerwise
from robustprune.sparsity.gates import gate_groups

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples"),
    pytest.mark.filterwarnings("ignore::robustprune.sparsity.LeftOut"),
]


def logits(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = network.eval()(x).logits
    return found


@pytest.mark.parametrize("solver", ["obs", "admm", "wanda"])
@pytest.mark.parametrize("structure", ["head", "neuron"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_what_is_removed_has_no_effect(name: str, structure: Any, solver: str) -> None:
    network, data = made(name), data_for(name)
    ticket = prune_layerwise(network, data, density=0.5, structure=structure, solver=solver)
    before = logits(ticket.model, data[0][0])
    for place in gate_groups(network, structure).values():
        kept = []
        for weight, span in place.spans.items():
            mask = ticket.masks[weight].float()
            share = span.total(mask, place.shape) / span.total(torch.ones_like(mask), place.shape)
            assert bool(((share == 0) | (share == 1)).all())  # whole heads and neurons
            kept.append(share.bool())
            found = ticket.model.get_parameter(weight)
            assert bool((found[mask == 0] == 0).all())
            if weight != list(place.spans)[-1]:
                found.data[mask == 0] = torch.randn(int((mask == 0).sum()))
        assert all(torch.equal(part, kept[0]) for part in kept)
        assert int(kept[0].sum()) == -(-place.number // 2)
    torch.testing.assert_close(logits(ticket.model, data[0][0]), before)


@pytest.mark.parametrize("structure", ["head", "neuron"])
def test_the_smaller_network_gives_the_same(structure: Any) -> None:
    network, data = made("bert"), data_for("bert")
    ticket = prune_layerwise(network, data, density=0.5, structure=structure, solver="obs")
    small = slim_language(ticket.model)
    sizes = (2, 24) if structure == "head" else (4, 12)
    assert language_sizes(small) == [sizes, sizes]
    x = data[0][0]
    torch.testing.assert_close(logits(small, x), logits(ticket.model, x))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_head_that_costs_least_goes(name: str) -> None:
    """All heads in turn, by least squares on the data."""
    network, data = made(name), data_for(name)
    ticket = prune_layerwise(
        network, data, density=0.75, structure="head", solver="obs", target="own", ridge=1e-12
    )
    record = ticket.history[0]
    layer = network.get_submodule(record.layer.rpartition(".")[0])
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0].flatten(0, -2)))
    for x, _ in data:
        logits(network, x)
    x = torch.cat(seen).double()
    weight = layer.weight.detach().double()
    target = x @ (weight if name == "gpt2" else weight.T)
    errors = []
    for head in range(4):
        kept = [column for column in range(16) if column // 4 != head]
        solved = torch.linalg.lstsq(x[:, kept], target).solution
        errors.append(float((x[:, kept] @ solved - target).square().sum()))
    assert record.loss == pytest.approx(min(errors) / float(target.square().sum()), rel=1e-4)


def test_least_squares_lower_the_error_of_the_same_heads() -> None:
    network, data = made("llama"), data_for("llama")
    losses = [
        [r.loss for r in prune_layerwise(
            network, data, density=0.5, structure="head", solver=solver, target="own"
        ).history]
        for solver in ("wanda", "refit")
    ]  # fmt: skip
    assert losses[1][0] < losses[0][0]


def test_channels_are_removed_for_real() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 64, 3),
    ).eval()  # fmt: skip
    data = [(torch.rand(16, 2, 10, 10), torch.zeros(16).long())]
    ticket = prune_layerwise(
        network, data, density=0.5, pattern="channel", solver="obs", dense=("first", "last")
    )
    x = data[0][0]
    small = slim(ticket.model.eval(), None, x[:1])
    sizes = [tuple(m.weight.shape) for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert sizes == [(3, 2, 3, 3), (8, 3, 3, 3)]
    with torch.no_grad():
        torch.testing.assert_close(small(x), ticket.model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("cnn", {"structure": "head"}, "has no layers like"),
        ("llama", {"structure": "heads"}, "did you mean 'head'"),
        ("llama", {"structure": "neuron", "pattern": "channel"}, "both group weights"),
        ("llama", {"structure": "head", "solver": "dsnot"}, "chooses single weights"),
        ("llama", {"structure": "head", "allocate": "row"}, "row"),
    ],
)
def test_refused(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        prune_layerwise(made(name), data_for(name), density=0.5, **options)
