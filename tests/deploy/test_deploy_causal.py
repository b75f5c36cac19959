"""Causal language models without their dead heads and neurons, and with CSR layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune.deploy import CSRLinear, slim_causal, sparsify
from robustprune.layerwise import prune_layerwise
from robustprune.sparsity import apply_masks, full_masks, transformer_blocks
from robustprune.sparsity.gates import gate_groups

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples"),
    pytest.mark.filterwarnings("ignore::robustprune.sparsity.LeftOut"),
]

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3", "GPT2"]
IDS = torch.randint(60, (6, 20), generator=torch.Generator().manual_seed(0))


def made(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {**SIZES, **options}
    if family == "GPT2":
        sizes = {"vocab_size": 60, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    if family == "Qwen3":
        sizes["head_dim"] = 16
    config = getattr(transformers, f"{family}Config")(**sizes)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    return shaken(getattr(transformers, name)(config))


def shaken(model: Any) -> Any:
    for parameter in model.parameters():  # biases are zero at first, and would hide mistakes
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize("structure", ["head", "neuron"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_smaller_model_gives_the_same_and_loads_anywhere(
    family: str, structure: Any, tmp_path: Path
) -> None:
    model = made(family)
    pruned = prune_layerwise(model, [{"input_ids": IDS}], density=0.5, structure=structure).model
    small = slim_causal(pruned)
    torch.testing.assert_close(logits(small), logits(pruned))
    fixed = family == "GPT2" and structure == "head"  # its config has no size of a head
    assert (small.num_parameters() < model.num_parameters()) != fixed
    if structure == "neuron":
        assert small.config.to_dict()["n_inner" if family == "GPT2" else "intermediate_size"] == (
            64 if family == "GPT2" else 24
        )
    small.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    assert torch.equal(logits(again), logits(small))


@pytest.mark.parametrize("tied", [True, False])
def test_each_layer_keeps_as_many_as_the_one_that_needs_most(tied: bool) -> None:
    model = made("Llama", tie_word_embeddings=tied)
    places = list(gate_groups(model, "neuron").values())
    for place, dead in zip(places, (40, 10), strict=True):
        *_, (name, span) = place.spans.items()
        kept = torch.ones(48)
        kept[torch.randperm(48)[:dead]] = 0
        model.get_parameter(name).data *= span.expand(kept)
    small = slim_causal(model)
    assert small.config.intermediate_size == 38
    assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
    torch.testing.assert_close(logits(small), logits(model))


def test_dead_everywhere_leaves_one() -> None:
    model = made("Llama")
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.zero_()
        layer.self_attn.o_proj.weight.data.zero_()
    small = slim_causal(model)
    sizes = small.config
    assert sizes.num_hidden_layers == 1
    assert (sizes.intermediate_size, sizes.num_attention_heads, sizes.num_key_value_heads) == (
        1,
        2,
        1,
    )
    torch.testing.assert_close(logits(small), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_add_nothing_are_removed(family: str, tmp_path: Path) -> None:
    """GPT-2's biases are part of what a layer adds."""
    more = {} if family == "GPT2" else {"num_hidden_layers": 4}
    model = made(family, **more)
    blocks = transformer_blocks(model)
    for block in blocks[1:3] if more else blocks[:1]:
        for name in (block.output, block.down):
            model.get_submodule(name).weight.data.zero_()
            bias = getattr(model.get_submodule(name), "bias", None)
            if bias is not None:
                assert len(transformer_blocks(slim_causal(model))) == len(blocks)
                bias.data.zero_()
    small = slim_causal(model)
    assert len(transformer_blocks(small)) == small.config.num_hidden_layers == (2 if more else 1)
    torch.testing.assert_close(logits(small), logits(model))
    small.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    assert torch.equal(logits(again), logits(small))
    found = small.generate(IDS[:1], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(
        found, model.generate(IDS[:1], max_new_tokens=5, do_sample=False, pad_token_id=0)
    )


def test_a_layer_that_counts_those_before_it_stays_in_its_place() -> None:
    """GPT-2 may divide the attention of layer i by i + 1, and SmolLM3 may turn some layers only."""
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=64, n_embd=32, n_layer=4, n_head=4,
        scale_attn_by_inverse_layer_idx=True,
    )  # fmt: skip
    gpt2 = shaken(transformers.GPT2LMHeadModel(config))
    sizes = {**SIZES, "num_hidden_layers": 4, "pad_token_id": 0, "no_rope_layers": [1, 0, 1, 0]}
    smollm3 = shaken(transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(**sizes)))
    for model, left in ((gpt2, 3), (smollm3, 2)):
        blocks = transformer_blocks(model)
        for block in (blocks[0], blocks[3]):
            for name in (block.output, block.down):
                for parameter in model.get_submodule(name).parameters():
                    parameter.data.zero_()
        small = slim_causal(model)
        assert small.config.num_hidden_layers == left
        torch.testing.assert_close(logits(small), logits(model))


@pytest.mark.parametrize("family", ["Olmo2", "StableLm"])
def test_heads_stay_where_a_model_of_fewer_would_differ(family: str) -> None:
    sizes = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = shaken(getattr(transformers, f"{family}ForCausalLM")(config))
    for block in transformer_blocks(model):
        model.get_parameter(f"{block.output}.weight").data[:, : block.size * block.shared] = 0
        model.get_parameter(f"{block.down}.weight").data[:, :8] = 0
    small = slim_causal(model)
    assert (small.config.num_attention_heads, small.config.intermediate_size) == (4, 40)
    torch.testing.assert_close(logits(small), logits(model))


def test_an_output_head_that_is_no_longer_tied_stays_so(tmp_path: Path) -> None:
    model = made("Llama", tie_word_embeddings=True)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight * (torch.rand(60, 32) < 0.5))
    small = slim_causal(model)
    torch.testing.assert_close(logits(small), logits(model))
    small.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    assert torch.equal(logits(again), logits(small))


def test_frequencies_keep_their_precision(tmp_path: Path) -> None:
    """Models that are loaded in bfloat16 have them in float32, those that were turned do not."""
    made("Llama").save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, trust_remote_code=False
    )
    for model in (loaded, made("Llama").to(torch.bfloat16)):
        small = slim_causal(model)
        assert small.model.rotary_emb.inv_freq.dtype == model.model.rotary_emb.inv_freq.dtype
        assert torch.equal(logits(small), logits(model))


def test_bfloat16_stays() -> None:
    small = slim_causal(made("Llama").to(torch.bfloat16))
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}


def test_what_cannot_be_made_smaller_is_refused() -> None:
    model = made("Llama")
    apply_masks(model, full_masks(model))
    with pytest.raises(ValueError, match="bake them in first"):
        slim_causal(model)
    config = transformers.DiffLlamaConfig(**{**SIZES, "bos_token_id": 1, "eos_token_id": 2})
    with pytest.raises(ValueError, match="differential attention"):
        slim_causal(transformers.DiffLlamaForCausalLM(config))
    with pytest.raises(ValueError, match="no layers like those of"):
        slim_causal(nn.Linear(2, 2))
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48,
    )  # fmt: skip
    with pytest.raises(ValueError, match="`slim_language` is for BERT"):
        slim_causal(transformers.BertModel(config))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_csr_layers_of_a_language_model(family: str, half: bool) -> None:
    model = made(family)
    for name, mask in full_masks(model).items():
        model.get_parameter(name).data *= torch.rand(mask.shape) < 0.1
    if half:
        model = model.to(torch.bfloat16)
    found = sparsify(model, None, IDS[:1, :1], repeats=1, gain=0.0)
    layers = [m for m in found.modules() if isinstance(m, CSRLinear)]
    assert len(layers) == (8 if family == "GPT2" else 15)
    torch.testing.assert_close(
        logits(found), logits(model), atol=0.1 if half else 1e-4, rtol=0.1 if half else 1e-4
    )
