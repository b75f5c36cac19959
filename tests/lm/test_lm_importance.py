"""Importance of heads and neurons by gradients, beside a literal loop, and what it is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("transformers", reason="language models need the extra lm")

from transformers import LlamaConfig, LlamaForCausalLM

from robustprune.deploy import slim_causal
from robustprune.layerwise import prune_layerwise
from robustprune.lm import importance_masks, perplexity, random_windows
from robustprune.lm.importance import gradient_importance
from robustprune.models.causal import load_causal
from robustprune.sparsity import apply_masks, bake
from robustprune.sparsity.gates import gate_groups
from robustprune.tasks import load_corpus

IDS = torch.randint(0, 32, (3, 7), generator=torch.Generator().manual_seed(0))


def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=6, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(5.0)
    return model


def changes(model: Any, form: str) -> dict[str, Tensor]:
    """|w g|, or with the second term, for every weight, by plain backward passes."""
    gradients: dict[str, list[Tensor]] = {}
    for row in IDS:
        model.zero_grad()
        logits = model(row.unsqueeze(0)).logits[0, :-1]
        F.cross_entropy(logits, row[1:]).backward()
        for name, parameter in model.named_parameters():
            gradients.setdefault(name, []).append(parameter.grad.clone())
    found = {}
    for name, parameter in model.named_parameters():
        own, stack = parameter.detach(), torch.stack(gradients[name])
        change = own * stack.mean(0)
        if form == "second":
            change = change - 0.5 * own**2 * (stack**2).mean(0)
        found[name] = change.abs()
    return found


@pytest.mark.parametrize("form", ["first", "second"])
def test_importance_is_that_of_a_literal_loop(form: Any) -> None:
    model = llama()
    every = changes(model, form)
    model.zero_grad()
    neurons = gradient_importance(model, IDS, gate_groups(model, "neuron"), form=form)
    heads = gradient_importance(model, IDS, gate_groups(model, "head"), form=form)
    for layer, (neuron, head) in enumerate(zip(neurons.values(), heads.values(), strict=True)):
        block = f"model.layers.{layer}"
        for i in range(6):
            wanted = every[f"{block}.mlp.gate_proj.weight"][i].sum()
            wanted = wanted + every[f"{block}.mlp.up_proj.weight"][i].sum()
            wanted = wanted + every[f"{block}.mlp.down_proj.weight"][:, i].sum()
            assert float(neuron[i]) == pytest.approx(float(wanted), rel=1e-5)
        for i in range(2):  # a pair of query heads shares a key and a value head
            part = every[f"{block}.self_attn.q_proj.weight"][4 * i : 4 * i + 4].sum()
            for name in ("k_proj", "v_proj"):
                part = part + every[f"{block}.self_attn.{name}.weight"][2 * i : 2 * i + 2].sum()
            part = part + every[f"{block}.self_attn.o_proj.weight"][:, 4 * i : 4 * i + 4].sum()
            assert float(head[i]) == pytest.approx(float(part), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_reconstruction_makes_up_for_what_importance_removes() -> None:
    language = load_causal()
    network: Any = language.network
    tokens = language.tokens(load_corpus("stories").test[:30_000])
    rows = random_windows(tokens[:4000], 64, 32, bos=1, seed=0)
    other = random_windows(tokens[4000:], 64, 16, bos=1, seed=0)
    masks = importance_masks(network, rows[:10], density=0.7, granularity="neuron")
    shares = {name: mask.double().mean().item() for name, mask in masks.items()}
    assert set(shares.values()) == {121 / 172}  # ⌈0.7 · 172⌉ neurons of each layer
    only = load_causal().network
    apply_masks(only, masks)
    bake(only)
    ticket = prune_layerwise(network, [{"input_ids": rows}], masks=masks, solver="refit")
    repaired, removed = (perplexity(one, other).value for one in (ticket.model, only))
    assert perplexity(network, other).value < repaired < 0.9 * removed
    small = slim_causal(ticket.model)
    assert small.config.intermediate_size == 121
    assert perplexity(small, other).value == pytest.approx(repaired, rel=1e-3)


def test_what_is_refused() -> None:
    model: Any = llama()
    with pytest.raises(ValueError, match="form='third' is unknown"):
        importance_masks(model, IDS, density=0.5, granularity="head", form="third")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"windows must be \(N, T\)"):
        importance_masks(model, IDS[0], density=0.5, granularity="head")
