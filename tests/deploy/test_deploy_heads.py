"""Attention heads: what is left of small vision transformers, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attending import HIDDEN, NETWORKS, E, ViT, network, seeded, size, without_heads

from robustprune.deploy import export_onnx, load_slim, prune_channels, save_slim, slim
from robustprune.minmax import Natural
from robustprune.search import finetune_ticket


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_heads_and_of_the_neurons_leave(name: str, tmp_path: Path) -> None:
    model, x = network(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ticket = prune_channels(model, x, density=0.5)
    small = slim(ticket.model, None, x)
    # two layers: rows of q, k, v and their biases, columns of the projection, and the neurons
    biases = 0 if name == "no bias" else 3 * E // 2
    removed = 2 * (4 * E * E // 2 + biases + (2 * E + 1) * HIDDEN // 2)
    assert size(model) - size(small) == removed
    assert round(ticket.coverage.whole_density * size(model)) == size(small)
    torch.testing.assert_close(small(x), ticket.model(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(small(x), model(x), atol=1e-3)
    assert not torch.allclose(small(x[:1]), small(x[1:2]), atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert set(small.state_dict()) == set(model.state_dict())
    save_slim(tmp_path / "small.safetensors", small)
    loaded = load_slim(tmp_path / "small.safetensors")
    torch.testing.assert_close(loaded(x[:2]), small(x)[:2], atol=1e-5, rtol=1e-5)
    assert size(loaded) == size(small)


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_of_whole_heads_are_slimmed(name: str) -> None:
    """The biases of pruned queries, keys and values need no mask: no column reads them."""
    model, x = network(name)
    path = "encoder.layers.1.self_attn" if "torch, " in name else "two.attention"
    if name == "torchvision":
        path = "encoder.layers.encoder_layer_1.self_attention"
    masks = without_heads(model, path, [0, 2, 3], total=4)
    small = slim(model, masks, x)
    assert small.get_submodule(path).heads == 1
    assert small.get_parameter(f"{path}.in_proj_weight").shape == (3 * E // 4, E)
    assert small.get_parameter(f"{path}.out_proj.weight").shape == (E, E // 4)
    other = path.replace("1.", "0.").replace("two", "one")
    assert small.get_submodule(other).heads == 4
    state = {k: v * masks[k] if k in masks else v for k, v in model.state_dict().items()}
    expected = torch.func.functional_call(model, state, (x,))
    torch.testing.assert_close(small(x), expected, atol=1e-5, rtol=1e-5)


def test_the_weakest_head_of_all_its_weights_goes() -> None:
    model, x = network("batch first")
    assert isinstance(model, ViT)
    attention = model.one.attention
    with torch.no_grad():
        attention.in_proj_weight.fill_(1.0)
        attention.out_proj.weight.fill_(1.0)
        attention.in_proj_weight[2:4] = 0.9  # queries of head 1
        attention.in_proj_weight[E + 6 : E + 8] = 0.5  # keys of head 3
        attention.out_proj.weight[:, :2] = 0.7  # what reads head 0
    masks = prune_channels(model, x, density=0.75).masks
    alive = torch.tensor([True] * 6 + [False] * 2)  # of head 3
    assert torch.equal(
        masks["one.attention.in_proj_weight"], alive.repeat(3)[:, None].expand(-1, E)
    )
    assert torch.equal(masks["one.attention.in_proj_bias"], alive.repeat(3))
    assert torch.equal(masks["one.attention.out_proj.weight"], alive.expand(E, -1))
    assert "one.attention.out_proj.bias" not in masks
    masks = prune_channels(model, x, density=0.5).masks
    assert (
        masks["one.attention.out_proj.weight"][0].tolist() == [False] * 2 + [True] * 4 + [False] * 2
    )
    kept = prune_channels(model, x, density=0.5, dense=("one.attention",)).masks
    assert bool(kept["one.attention.in_proj_weight"].all())
    assert not bool(kept["two.attention.in_proj_weight"].all())


@pytest.mark.parametrize("bias", [True, False])
def test_one_head_stays_even_if_nothing_reads_it(bias: bool) -> None:
    torch.manual_seed(0)
    model, x = seeded(ViT(1, bias=bias)), torch.randn(3, 3, 8, 8)
    masks = prune_channels(model, x, density=0.5).masks
    assert bool(masks["one.attention.in_proj_weight"].all())
    several = seeded(ViT(4, bias=bias))
    for vit, heads in ((model, 1), (several, 4)):
        masks = without_heads(vit, "one.attention", list(range(heads)), heads)
        small = slim(vit, masks, x)
        assert small.get_submodule("one.attention").heads == 1
        assert small.get_submodule("two.attention").heads == heads


def test_a_head_of_constant_values_moves_into_the_bias() -> None:
    """Weights of attention sum to one, so that a head without value rows outputs its bias."""
    model, x = network("batch first")
    assert isinstance(model, ViT)
    with torch.no_grad():
        model.one.attention.in_proj_weight[2 * E + 2 : 2 * E + 4] = 0.0  # values of head 1
        model.two.attention.in_proj_weight[2 * E] = 0.0  # only one of two values of head 0
    small = slim(model, None, x)
    assert small.get_submodule("one.attention").heads == 3
    assert small.get_submodule("two.attention").heads == 4
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_training_keeps_pruned_heads_zero() -> None:
    model, x = network("batch first")
    ticket = prune_channels(model, x, density=0.5)
    tuned = finetune_ticket(
        ticket, [(x, torch.arange(5) % 3)], Natural(), epochs=2, mode="inherit", quiet=True
    )
    small = slim(tuned.model.eval(), None, x)
    assert size(small) == size(slim(ticket.model, None, x))
    torch.testing.assert_close(small(x), tuned.model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    model, x = network("sequence first")
    small = slim(prune_channels(model, x, density=0.5).model, None, x)
    export_onnx(small, x, tmp_path / "small.onnx")  # which compares it with ONNX Runtime
