"""Prompts of every layer: attention worked out by hand, text in place of a prompt, and lengths."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="language models need the extra lm")

from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from attacks import PGD, ThreatModel
from robustprune.lm import (
    Prompted,
    adversarial_perplexity,
    next_token_batches,
    perplexity,
    token_loss,
    tune_prompts,
)
from robustprune.lm.cache import name_of_cache
from robustprune.lm.prompts import prompt_lengths
from robustprune.minmax import History, Natural, OptimizerSpec
from robustprune.packing import words
from robustprune.search import Ticket
from robustprune.sparsity import MaskSet

ADAM = OptimizerSpec(name="adam", lr=0.1, weight_decay=0.0)
IDS = torch.randint(0, 64, (6, 12), generator=torch.Generator().manual_seed(0))


def llama(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    model: Any = LlamaForCausalLM(LlamaConfig(**{**sizes, **options})).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5.0)  # so that attention is not the mean
    return model


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=64)
    model: Any = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(8.0 if parameter.ndim == 2 else 1.0)
    return model


def drawn(model: Any, lengths: list[int]) -> list[list[Tensor]]:
    """Random keys and values."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = config.hidden_size // config.num_attention_heads
    return [[torch.randn(heads, n, size) for n in lengths] for _ in range(2)]


def halves(model: nn.Module, shares: list[float]) -> MaskSet:
    """Masks of all layers of block i that keep a share."""
    masks = {}
    for name, weight in model.named_parameters():
        found = re.search(r"\.(?:layers|h)\.(\d+)\.", name)
        if found and weight.ndim == 2:
            masks[name] = torch.rand(weight.shape) < shares[int(found[1])]
    return MaskSet(masks)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("how", ["eager", "sdpa"])
def test_a_prompt_of_real_tokens_is_text_in_front(make: Any, how: str) -> None:
    model = make()
    model.set_attn_implementation(how)
    front, text = IDS[:1, :5], IDS[:1, 5:]
    name = name_of_cache(model)
    with torch.no_grad():
        held = getattr(model(front, use_cache=True), name).layers
        places = torch.cat([torch.arange(5), torch.arange(7)]).unsqueeze(0)
        wanted = model(IDS[:1], position_ids=places).logits[:, 5:]
        found = Prompted(model, [h.keys[0] for h in held], [h.values[0] for h in held])(text)
        batch = Prompted(model, [h.keys[0] for h in held], [h.values[0] for h in held])(
            torch.cat([text, text.flip(1)])
        )
    assert torch.allclose(found.logits, wanted, atol=1e-4)
    assert torch.allclose(batch.logits[:1], wanted, atol=1e-4)


@pytest.mark.parametrize("lengths", [[3, 1], [1, 4], [2, 2]])
@pytest.mark.parametrize("how", ["eager", "sdpa"])
def test_each_layer_attends_to_its_own_prompt(lengths: list[int], how: str) -> None:
    """Beside the attention of a Llama, written out."""
    model = llama(tie_word_embeddings=False)
    model.set_attn_implementation(how)
    keys, values = drawn(model, lengths)
    heads, size, length = 4, 4, IDS.shape[1]
    with torch.no_grad():
        found = Prompted(model, keys, values)(IDS).logits
        h = model.model.embed_tokens(IDS)
        cos, sin = model.model.rotary_emb(h, torch.arange(length).unsqueeze(0))

        def turned(x: Tensor) -> Tensor:
            half = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], dim=-1)
            return x * cos.unsqueeze(1) + half * sin.unsqueeze(1)

        for layer, key, value in zip(model.model.layers, keys, values, strict=True):
            x, own = layer.input_layernorm(h), layer.self_attn
            q, k, v = (
                p(x).view(len(IDS), length, -1, size).transpose(1, 2)
                for p in (own.q_proj, own.k_proj, own.v_proj)
            )
            k = torch.cat([key.expand(len(IDS), -1, -1, -1), turned(k)], dim=2)
            v = torch.cat([value.expand(len(IDS), -1, -1, -1), v], dim=2)
            k, v = (part.repeat_interleave(heads // 2, dim=1) for part in (k, v))
            scores = turned(q) @ k.transpose(2, 3) / size**0.5
            later = torch.ones(length, length).triu(1).bool()
            hidden = torch.cat([torch.zeros(length, key.shape[1]).bool(), later], dim=1)
            seen = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
            h = h + own.o_proj(seen.transpose(1, 2).reshape(len(IDS), length, -1))
            h = h + layer.mlp(layer.post_attention_layernorm(h))
        wanted = model.lm_head(model.model.norm(h))
    assert torch.allclose(found, wanted, atol=1e-3)


def test_lengths_are_in_proportion_to_what_a_layer_has_lost() -> None:
    model = llama()
    masks = halves(model, [0.75, 0.25])
    kept = [
        sum(int(m.sum()) for n, m in masks.items() if f".layers.{i}." in n)
        / sum(m.numel() for n, m in masks.items() if f".layers.{i}." in n)
        for i in (0, 1)
    ]
    lost = [1 - share for share in kept]
    found = prompt_lengths(model, masks, 8, "sparsity")
    assert found == [round(16 * lost[0] / sum(lost)), round(16 * lost[1] / sum(lost))]
    assert prompt_lengths(model, masks, 8, "alike") == [8, 8]
    assert prompt_lengths(model, halves(model, [1.1, 0.5]), 8, "sparsity") == [1, 15]
    assert prompt_lengths(model, halves(model, [1.1, 1.1]), 8, "sparsity") == [8, 8]


@pytest.mark.parametrize("make", [llama, gpt2])
def test_training_prompts_changes_no_weight_and_lowers_the_loss(make: Any) -> None:
    model = make()
    masks = halves(model, [0.5, 0.2])
    for name, mask in masks.items():
        model.get_parameter(name).data.mul_(mask)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = next_token_batches(IDS, 3)
    ticket = tune_prompts(
        Ticket(masks, model, History()),
        batches,
        Natural(),
        epochs=40,
        optimizer=ADAM,
        tokens=4,
        quiet=True,
    )
    after = ticket.model.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {f"network.{name}" for name in masks} == set(ticket.masks)
    assert sum(part.shape[1] for part in ticket.model.keys) == 8
    assert ticket.history[-1].loss < 0.95 * ticket.history[0].loss
    assert perplexity(ticket.model, IDS).value < perplexity(model, IDS).value
    threat = ThreatModel("l2", 0.5, support=words)
    attack = PGD(threat, loss=token_loss, steps=3, seed=0)
    attacked = adversarial_perplexity(ticket.model, IDS, attack)
    assert attacked.value > perplexity(ticket.model, IDS).value


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft uses names that will go
def test_equal_prompts_are_the_prefix_of_peft() -> None:
    peft = pytest.importorskip("peft")
    model = gpt2()
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    theirs = peft.get_peft_model(gpt2(), config).eval()
    encoder = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        encoder.normal_()
        parts = encoder.view(3, 4, 4, 4).permute(1, 2, 0, 3)  # layer's key, value, ...
        ours = Prompted(model, list(parts[::2]), list(parts[1::2]))
        # there the text begins at place 3, here at place 0
        table = model.transformer.wpe.weight
        table[:-3] = table[3:].clone()
        wanted = theirs(IDS).logits
        assert torch.allclose(ours(IDS).logits, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": 0}, "tokens=0 must be at least 1 and at most the 11 of a window"),
        ({"tokens": 12}, "tokens=12 must be"),
        ({"lengths": "even"}, "lengths='even' is unknown"),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    model = llama()
    ticket = Ticket(halves(model, [0.5, 0.5]), model, History())
    with pytest.raises(ValueError, match=said):
        tune_prompts(ticket, next_token_batches(IDS, 3), Natural(), **options)
    with pytest.raises(ValueError, match="trained on token numbers"):
        tune_prompts(ticket, [(torch.zeros(2, 3, 4), torch.zeros(2))], Natural())
    with pytest.raises(ValueError, match="1 prompts are given for the 2 layers"):
        Prompted(model, *drawn(model, [2]))
