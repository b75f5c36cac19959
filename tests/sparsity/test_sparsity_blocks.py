"""What a transformer is made of, against the network with a part's contribution taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune.measure.work import count_work
from robustprune.search import prune_one_shot
from robustprune.sparsity import (
    MaskSet,
    apply_masks,
    gate_groups,
    group_weight,
    keep_best,
    maskable_layers,
    output_head,
    transformer_blocks,
)

transformers: Any = pytest.importorskip("transformers")
Conv1D = transformers.pytorch_utils.Conv1D

LLAMA = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 30, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {
    "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 8, "vocab_size": 30,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
BERT = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 30, "max_position_embeddings": 8, "pad_token_id": 0,
}  # fmt: skip
DISTILBERT = {
    "dim": 16, "hidden_dim": 20, "n_layers": 2, "n_heads": 4, "vocab_size": 30,
    "max_position_embeddings": 8, "pad_token_id": 0,
}  # fmt: skip

#: class, config, options; groups of heads, neurons, weights of a group of heads and of a neuron,
#: the head and the embedding that it shares a weight with
MODELS: dict[str, tuple[str, str, dict, tuple[int, int, int, int], str, str | None]] = {
    # a head: 4 rows of 3 matrices and 4 columns of one, 16 long
    "bert": (
        "BertForSequenceClassification", "BertConfig", BERT, (4, 20, 256, 32), "classifier", None,
    ),
    "bert_mlm": (
        "BertForMaskedLM", "BertConfig", BERT, (4, 20, 256, 32),
        "cls.predictions.decoder", "bert.embeddings.word_embeddings",
    ),
    "roberta": (
        "RobertaForSequenceClassification", "RobertaConfig", BERT, (4, 20, 256, 32),
        "classifier.out_proj", None,
    ),
    "distilbert": (
        "DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT, (4, 20, 256, 32),
        "classifier", None,
    ),
    # two query heads, a key and a value head, the output columns of the two; a neuron has a gate
    "llama": (
        "LlamaForCausalLM", "LlamaConfig", LLAMA | {"tie_word_embeddings": False},
        (2, 20, 16 * (8 + 4 + 4 + 8), 48), "lm_head", None,
    ),
    "llama_tied": (
        "LlamaForCausalLM", "LlamaConfig", LLAMA | {"tie_word_embeddings": True},
        (2, 20, 16 * (8 + 4 + 4 + 8), 48), "lm_head", "model.embed_tokens",
    ),
    "llama_biased": (
        "LlamaForSequenceClassification", "LlamaConfig", LLAMA | {"attention_bias": True},
        (2, 20, 16 * (8 + 4 + 4 + 8), 48), "score", None,
    ),
    "mistral": (  # one key head for all
        "MistralForCausalLM", "MistralConfig", LLAMA | {"num_key_value_heads": 1},
        (1, 20, 16 * (16 + 4 + 4 + 16), 48), "lm_head", None,
    ),
    "qwen2": (
        "Qwen2ForCausalLM", "Qwen2Config", LLAMA | {"num_key_value_heads": 4},
        (4, 20, 256, 48), "lm_head", None,
    ),
    "qwen3": (  # heads wider than hidden_size / heads
        "Qwen3ForCausalLM", "Qwen3Config", LLAMA | {"head_dim": 6},
        (2, 20, 16 * (12 + 6 + 6 + 12), 48), "lm_head", None,
    ),
    "gpt2": (
        "GPT2ForSequenceClassification", "GPT2Config", GPT2, (4, 64, 256, 32), "score", None,
    ),
    "gpt2_lm": (
        "GPT2LMHeadModel", "GPT2Config", GPT2, (4, 64, 256, 32), "lm_head", "transformer.wte",
    ),
}  # fmt: skip

IDS = torch.tensor([[5, 7, 9, 3], [8, 2, 4, 6]])


def build(name: str) -> nn.Module:
    kind, config, options, *_ = MODELS[name]
    torch.manual_seed(0)
    made = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # biases away from zero, weights that tell
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return made  # type: ignore[no-any-return]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def parts(model: nn.Module, granularity: str, layer: int, kept: Tensor) -> MaskSet:
    """The masks of one layer that keep these of its groups."""
    group = gate_groups(model, granularity)[f"{granularity}.{layer}"]  # type: ignore[arg-type]
    return MaskSet(
        {
            name: span.expand(kept).expand(span.shape).contiguous()
            for name, span in group.spans.items()
        }
    )


def without(model: nn.Module, columns: dict[str, slice]) -> Tensor:
    """Logits when these numbers that flow into a layer are zero."""

    def zeroing(at: slice) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            flow = args[0].clone()
            flow[..., at] = 0
            return (flow,)

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(zeroing(at))
        for name, at in columns.items()
    ]
    found = logits(model)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("granularity", ["head", "neuron", "layer"])
def test_a_masked_part_contributes_nothing(name: str, granularity: str) -> None:
    model = build(name)
    block = transformer_blocks(model)[1]
    groups = gate_groups(model, granularity)[f"{granularity}.1"]  # type: ignore[arg-type]
    number, gone = groups.number, groups.number - 1
    wide = block.size * block.shared
    everything = slice(None)
    flows = {
        "head": {block.output: slice(gone * wide, (gone + 1) * wide)},
        "neuron": {block.down: slice(gone, gone + 1)},
        "layer": {block.output: everything, block.down: everything},
    }[granularity]
    expected, whole = without(model, flows), logits(model)
    apply_masks(model, parts(model, granularity, 1, torch.arange(number) != gone))
    torch.testing.assert_close(logits(model), expected)
    assert not torch.allclose(logits(model), whole, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("granularity", ["head", "neuron"])
def test_a_part_alone_depends_on_its_own_weights(name: str, granularity: str) -> None:
    """Only one group's way out is left: what goes into the others may be anything, its own not."""
    block = transformer_blocks(build(name))[0]
    out = block.output if granularity == "head" else block.down

    def alone(change: str) -> Tensor:
        model = build(name)
        number = gate_groups(model, granularity)[f"{granularity}.0"].number  # type: ignore[arg-type]
        masks = parts(model, granularity, 0, torch.arange(number) == number // 2)
        generator = torch.Generator().manual_seed(1)
        for weight, mask in masks.items():
            target = model.get_parameter(weight)
            noise = torch.randn(mask.shape, generator=generator)
            where = mask if change == "own" else ~mask
            with torch.no_grad():
                if weight == f"{out}.weight":
                    target.mul_(mask)
                elif change != "none":
                    target.add_(noise * where)
        return logits(model)

    torch.testing.assert_close(alone("others"), alone("none"))
    assert not torch.allclose(alone("own"), alone("none"), atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_counted_exactly(name: str) -> None:
    model = build(name)
    heads, neurons, of_head, of_neuron = MODELS[name][3]
    for granularity, number, weights in (
        ("head", heads, of_head),
        ("neuron", neurons, of_neuron),
        ("layer", 1, heads * of_head + neurons * of_neuron),
    ):
        groups = gate_groups(model, granularity)  # type: ignore[arg-type]
        assert list(groups) == [f"{granularity}.0", f"{granularity}.1"]
        for group in groups.values():
            assert (group.number, group.weights) == (number, number * weights)
        kept = parts(model, granularity, 1, torch.arange(number) == 0)
        assert kept.kept == weights


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_is_the_head(name: str) -> None:
    model = build(name)
    *_, head, embedding = MODELS[name]
    found = output_head(model)
    assert found is not None
    assert (found.name, found.embedding) == (head, embedding)
    every = set(maskable_layers(model))
    assert every - set(maskable_layers(model, dense=("last",))) == (
        set() if embedding else {f"{head}.weight"}
    )


def test_the_head_is_known_by_where_it_is() -> None:
    class Before(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.answer, self.base = nn.Linear(16, 2), base

    config = transformers.BertConfig(**BERT)
    model = Before(transformers.BertModel(config, add_pooling_layer=True))
    assert "answer.weight" not in maskable_layers(model, dense=("last",))
    assert "base.pooler.dense.weight" in maskable_layers(model, dense=("last",))
    bare = transformers.LlamaModel(transformers.LlamaConfig(**LLAMA))
    assert output_head(bare) is None
    with pytest.raises(ValueError, match="LlamaModel is a transformer without an output head"):
        maskable_layers(bare, dense=("last",))


def test_all_of_gpt2_can_be_masked() -> None:
    model = build("gpt2")
    ticket = prune_one_shot(model, density=0.5)  # a warning would be an error
    assert ticket.coverage.left_out == {}
    assert ticket.masks.total == 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 2 * 16
    assert not torch.equal(logits(ticket.model), logits(model))
    work = count_work(nn.Sequential(Conv1D(6, 7)), torch.rand(2, 3, 7))
    assert (work.macs, work.uncounted) == (3 * 42, ())


PATTERNS = ["element", "row", "kernel", "filter", "channel", "column", "2x3", "2:4"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("allocate", ["layer", "global", "erk"])
def test_a_conv1d_is_a_linear_layer_that_lies_the_other_way(pattern: str, allocate: str) -> None:
    if ":" in pattern and allocate != "layer":
        return
    torch.manual_seed(0)
    linear = nn.ModuleList([nn.Linear(7, 6), nn.Linear(6, 10)])
    turned = nn.ModuleList([Conv1D(6, 7), Conv1D(10, 6)])
    scores, options = [], {"density": 0.5, "pattern": pattern, "allocate": allocate}
    for model in (linear, turned):
        drawn = torch.Generator().manual_seed(1)
        every = {n: torch.rand(o, i, generator=drawn) for n, o, i in (("0", 6, 7), ("1", 10, 6))}
        back = model is turned
        scores.append({f"{n}.weight": s.t().contiguous() if back else s for n, s in every.items()})
    masks = keep_best(scores[0], maskable_layers(linear), **options)  # type: ignore[arg-type]
    other = keep_best(scores[1], maskable_layers(turned), **options)  # type: ignore[arg-type]
    assert {name: mask.t().tolist() for name, mask in masks.items()} == {
        name: mask.tolist() for name, mask in other.items()
    }
    assert group_weight(turned[0], pattern).fan_in == 7
    assert group_weight(turned[0], pattern).number == group_weight(linear[0], pattern).number


def _cross() -> nn.Module:
    return transformers.GPT2LMHeadModel(  # type: ignore[no-any-return]
        transformers.GPT2Config(**GPT2, add_cross_attention=True)
    )


def _mixed() -> nn.Module:
    model = build("llama")
    model.model.layers[1] = nn.Linear(16, 16)  # type: ignore[union-attr, index, operator]
    return model


def _gated() -> nn.Module:
    """As layers whose query also gives a gate for the output."""
    model = build("llama")
    model.model.layers[0].self_attn.q_proj = nn.Linear(16, 36)  # type: ignore
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(2, 2), "^Linear has no layers like those of BERT, DistilBERT, Llama, G"),
        (_cross, r"^layer 'transformer\.h\..' has cross-attention, so that heads and neurons are"),
        (_mixed, r"^layer 'model\.layers\.1' is not like 'model\.layers\.0', so that heads"),
        (_gated, r"^layer 'model\.layers\.0' has the names of Llama's but not its shapes"),
    ],
)
def test_what_is_not_known_is_said(make: Callable[[], nn.Module], message: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=message):
        gate_groups(model, "head")
    gate_groups(model, "weight")
    maskable_layers(nn.ModuleList([model, nn.Linear(2, 2)]), dense=("last",))
