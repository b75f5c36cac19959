"""Remove heads, neurons and layers from causal language models; `from_pretrained` loads what is
left."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from robustprune.deploy.copies import check_baked
from robustprune.sparsity import Block, transformer_blocks
from robustprune.sparsity.blocks import out_dim
from robustprune.sparsity.gates import GateGroup, Span, gate_groups

#: family -> what its config calls the numbers of heads, of key and value heads, and of neurons
_SETTINGS = {
    "Llama": ("num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "GPT-2": (None, None, "n_inner"),  # the size of a head is width / heads, so that heads stay
}
#: what a config says of each layer, in a list
_OF_LAYERS = ("layer_types", "no_rope_layers")


@torch.no_grad()
def slim_causal(model: nn.Module) -> nn.Module:
    """Copy a causal language model without heads, neurons and layers that add nothing.

    These are heads and neurons whose columns of the output projection, or of the last feed-forward
    matrix, are all zero, as after `prune_layerwise(..., structure="head")`, and layers in which
    both matrices and their biases are zero, so that only the residual connection is left. The
    answers stay the same up to the order of summation. Query heads that share a key and a value
    head go together. The config of a model has one number of heads and one of neurons for all
    layers, so each layer that stays keeps as many as the layer that needs most. One layer stays.
    Heads stay where a norm spans all of them (OLMo 2), or where the config can't say their size.

    Args:
        model: a model of transformers with layers like Llama's (Mistral, Qwen2, ...) or GPT-2's,
            with masks baked in; it is not changed. A GPT-2 loses neurons only.

    Returns:
        A model of the same class, in eval mode, whose `save_pretrained` writes a folder that
        `from_pretrained` loads without robustprune.

    Raises:
        ValueError: there are no such layers, masks are still applied on the fly, something else
            computes a weight, there is a hook, or the config does not say the sizes of the layers.
    """
    check_baked(model)
    blocks = transformer_blocks(model)
    if blocks[0].family not in _SETTINGS or not hasattr(model, "save_pretrained"):
        raise ValueError(
            f"{type(model).__name__} is no causal language model of transformers with layers like "
            f"those of {' or '.join(_SETTINGS)}; `slim_language` is for BERT and DistilBERT"
        )
    if hasattr(model.get_submodule(blocks[0].attention), "lambda_init"):
        raise ValueError(
            f"{type(model).__name__} has differential attention, whose heads work in pairs and "
            "whose layers know their numbers; keep its masks as zeros"
        )
    stay = _working(model, blocks)
    for heads in (True, False):  # the norm of a few families spans all heads, which then stay
        config, state = _smaller(model, blocks, stay, heads=heads)
        if _fits(type(model), config, state):
            break
    else:
        raise ValueError(
            f"the config of {type(model).__name__} does not say the sizes of its layers, so that a "
            "smaller model can't be built from it"
        )
    small = _empty(model, config, _without_layers(dict(model.named_buffers()), blocks, stay))
    small.load_state_dict(state)
    if getattr(model, "generation_config", None) is not None:
        small.generation_config = copy.deepcopy(model.generation_config)
    return small.to(next(model.parameters()).device).eval()


def _smaller(
    model: nn.Module, blocks: list[Block], stay: list[int], *, heads: bool
) -> tuple[Any, dict[str, Tensor]]:
    """Return the config and the weights of the smaller model; `heads` says if heads may go."""
    config = copy.deepcopy(cast(Any, model).config)
    queries, pairs, neurons = _SETTINGS[blocks[0].family]
    kept: dict[str, tuple[Span, Tensor]] = {}
    if heads and queries is not None:
        number = _choose(model, _places(model, "head", stay), kept)
        setattr(config, queries, number * blocks[0].shared)
        setattr(config, cast(str, pairs), number)
        config.head_dim = blocks[0].size
    setattr(config, neurons, _choose(model, _places(model, "neuron", stay), kept))
    config.num_hidden_layers = len(stay)
    for each in _OF_LAYERS:
        if getattr(config, each, None):
            setattr(config, each, [getattr(config, each)[index] for index in stay])
    if _is_untied(model):
        config.tie_word_embeddings = False
    state = dict(model.state_dict())
    for name, (span, index) in kept.items():
        state[name] = _selected(state[name], span, index)
        bias = f"{name.removesuffix('weight')}bias"
        if bias in state and _of_outputs(model, name, span):
            state[bias] = _selected(state[bias], replace(span, dim=0), index)
    return config, _without_layers(state, blocks, stay)


def _is_untied(model: nn.Module) -> bool:
    """Return whether the output head has a weight of its own, whatever the config says."""
    into, out = (getattr(model, f"get_{side}_embeddings")() for side in ("input", "output"))
    return out is not None and out.weight is not into.weight


def _fits(kind: type[nn.Module], config: Any, state: dict[str, Tensor]) -> bool:
    """Return whether a model of this config has weights of these names and shapes."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        shapes = {name: part.shape for name, part in kind(config).state_dict().items()}
    return shapes == {name: part.shape for name, part in state.items()}


def _empty(model: nn.Module, config: Any, buffers: dict[str, Tensor]) -> nn.Module:
    """Return a model of the same class and dtype, with those buffers that no state has.

    The frequencies of rotary positions stay in float32 where the model has them so.
    """
    small: nn.Module = type(model)(config).to(next(model.parameters()).dtype)
    for name, own in list(small.named_buffers()):
        if name in buffers and buffers[name].shape == own.shape:
            path, _, leaf = name.rpartition(".")
            small.get_submodule(path)._buffers[leaf] = buffers[name].clone()
    return small


def _working(model: nn.Module, blocks: list[Block]) -> list[int]:
    """Return the places of the layers that add something; the first one if no layer does."""

    def adds(name: str) -> bool:
        return any(bool((part != 0).any()) for part in model.get_submodule(name).parameters())

    found = [i for i, block in enumerate(blocks) if adds(block.output) or adds(block.down)]
    if found and getattr(cast(Any, model).config, "scale_attn_by_inverse_layer_idx", False):
        return list(range(found[-1] + 1))  # a layer of such a GPT-2 counts those before it
    return found or [0]


def _places(
    model: nn.Module, granularity: Literal["head", "neuron"], stay: list[int]
) -> dict[str, GateGroup]:
    found = list(gate_groups(model, granularity).items())
    return dict(found[index] for index in stay)


def _without_layers(
    state: dict[str, Tensor], blocks: list[Block], stay: list[int]
) -> dict[str, Tensor]:
    """Leave out the layers that do not stay, and number the others anew."""
    new = {blocks[old].name: blocks[place].name for place, old in enumerate(stay)}
    found = {}
    for name, tensor in state.items():
        layer = next((b.name for b in blocks if name.startswith(f"{b.name}.")), None)
        if layer is None:
            found[name] = tensor
        elif layer in new:
            found[new[layer] + name.removeprefix(layer)] = tensor
    return found


def _choose(
    model: nn.Module, places: dict[str, GateGroup], kept: dict[str, tuple[Span, Tensor]]
) -> int:
    """Note which groups of each weight stay, the same number in each place; return that number."""
    alive = {}
    for name, place in places.items():
        last, span = list(place.spans.items())[-1]  # the columns behind the heads or neurons
        used = (model.get_parameter(last) != 0).float()
        alive[name] = span.total(used, place.shape) > 0
    number = max(1, *(int(part.sum()) for part in alive.values()))
    for name, place in places.items():
        # those in use, then others, whose columns are zero, up to the number of all layers
        order = torch.argsort(alive[name].float(), descending=True, stable=True)
        index = order[:number].sort().values
        kept.update({weight: (span, index) for weight, span in place.spans.items()})
    return number


def _selected(tensor: Tensor, span: Span, index: Tensor) -> Tensor:
    """Keep only these groups of rows or columns."""
    assert span.dim is not None
    lines = torch.zeros(tensor.shape[span.dim] // span.repeat // span.parts, dtype=torch.bool)
    lines[index.cpu()] = True
    every = lines.repeat_interleave(span.repeat).repeat(span.parts).nonzero().flatten()
    return tensor.index_select(span.dim, every.to(tensor.device))


def _of_outputs(model: nn.Module, weight: str, span: Span) -> bool:
    """Return whether the groups are outputs of the layer, so that its bias is theirs, too."""
    return span.dim == out_dim(model.get_submodule(weight.rpartition(".")[0]))
