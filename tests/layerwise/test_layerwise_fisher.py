"""How much the loss feels each output of a layer."""

from __future__ import annotations

import pytest
import torch
from layerwise_networks import data_for, made
from torch import Tensor, nn

from robustprune.layerwise import prune_layerwise
from robustprune.layerwise.fisher import output_weights
from robustprune.layerwise.inputs import Batch
from robustprune.sparsity import maskable_layers

FEW = pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")
CPU = torch.device("cpu")


def squares(network: nn.Module, batches: list[Batch], seed: int = 0) -> dict[str, Tensor]:
    found = output_weights(network, maskable_layers(network), batches, device=CPU, seed=seed)
    return {name: root.square() for name, root in found.items()}


def test_logits_of_a_linear_network() -> None:
    """∂ log p(c) / ∂ y_i = [c = i] − p_i, whose mean square over c ~ p is p_i (1 − p_i)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    x = torch.randn(20000, 5)
    found = squares(network, [Batch(part) for part in x.split(6000)])
    p = network(x).softmax(1).detach()
    both = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    head = network[1].weight.detach()
    torch.testing.assert_close(
        found["1.weight"][0], (p * (1 - p)).mean(0).double(), rtol=0.05, atol=0
    )
    before = torch.einsum("ci,ncd,di->i", head, both, head) / len(x)
    torch.testing.assert_close(found["0.weight"][0], before.double(), rtol=0.05, atol=0)


def test_batches_are_summed_up_and_the_seed_draws_the_classes() -> None:
    network = made("cnn")
    batches = [Batch(x) for x, _ in data_for("cnn")]
    one, same, other = (squares(network, batches, seed) for seed in (0, 0, 1))
    for name, found in one.items():
        assert torch.equal(found, same[name])
        assert not torch.equal(found, other[name])
        layer = network.get_submodule(name.removesuffix(".weight"))
        assert found.numel() == len(layer.weight)
        if isinstance(layer, nn.Conv2d):
            assert len(found) == layer.groups


@pytest.mark.parametrize("name", ["cnn", "llama", "gpt2", "bert"])
def test_the_network_is_left_as_it_was(name: str) -> None:
    network = made(name).requires_grad_(False)
    with torch.no_grad():
        found = squares(network, [Batch(x) for x, _ in data_for(name)])
    assert all(bool((f > 0).any()) and bool(f.isfinite().all()) for f in found.values())
    for parameter in network.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    assert all(not m._forward_hooks for m in network.modules())


def test_tokens_that_do_not_count_have_no_say() -> None:
    """In a causal network, what stands behind the tokens that count changes nothing."""
    network, (ids, _) = made("llama"), data_for("llama")[0]
    counted = torch.ones_like(ids, dtype=torch.bool)
    counted[:, 5:] = False
    other = ids.clone()
    other[:, 5:] = 1
    one, two = (squares(network, [Batch({"input_ids": i}, counted=counted)]) for i in (ids, other))
    for name, found in one.items():
        torch.testing.assert_close(found, two[name])


@FEW
@pytest.mark.parametrize("allocate", ["layer", "global"])
@pytest.mark.parametrize("solver", ["admm", "sparsegpt", "alps", "refit"])
def test_outputs_that_nothing_uses_lose_their_weights_first(solver: str, allocate: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
    with torch.no_grad():
        network[2].weight[:, :4] = 0
    data = [(torch.randn(200, 6), torch.zeros(200).long())]
    options = {"scores": "wanda"} if solver == "refit" else {}
    ticket = prune_layerwise(
        network, data, density=0.5, solver=solver, outputs="fisher", allocate=allocate, **options
    )
    assert int(ticket.masks["0.weight"][:4].sum()) == 0


@FEW
def test_gradients_that_are_not_finite_name_their_layer() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.sqrt(0 * self.inner(x)))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"outputs of layer 'inner\.weight' is NaN"):
        prune_layerwise(Root(), data_for("twice"), density=0.5, outputs="fisher")


def test_options_without_effect_are_refused() -> None:
    network, data = made("cnn"), data_for("cnn")
    with pytest.raises(ValueError, match="no effect on solver 'wanda'"):
        prune_layerwise(network, data, density=0.5, solver="wanda", outputs="fisher")
    with pytest.raises(ValueError, match="did you mean 'fisher'"):
        prune_layerwise(network, data, density=0.5, outputs="fischer")
