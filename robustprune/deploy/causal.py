"""Remove heads and neurons from causal language models; `from_pretrained` loads what is left."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustprune.deploy.copies import check_baked
from robustprune.sparsity import transformer_blocks
from robustprune.sparsity.blocks import out_dim
from robustprune.sparsity.gates import GateGroup, Span, gate_groups

#: family -> what its config calls the numbers of heads, of key and value heads, and of neurons
_SETTINGS = {
    "Llama": ("num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "GPT-2": (None, None, "n_inner"),  # the size of a head is width / heads, so that heads stay
}


@torch.no_grad()
def slim_causal(model: nn.Module) -> nn.Module:
    """Copy a causal language model without the heads and neurons whose outputs are not used.

    These are the ones whose columns of the output projection, or of the last feed-forward matrix,
    are all zero, as after `prune_layerwise(..., structure="head")`. They add exactly nothing, so
    the answers stay the same up to the order of summation. Query heads that share a key and a value
    head go together. The config of a model has one number of heads and one of neurons for all
    layers, so each layer keeps as many as the layer that needs most.

    Args:
        model: a model of transformers with layers like Llama's (Mistral, Qwen2, ...) or GPT-2's,
            with masks baked in; it is not changed. A GPT-2 loses neurons only.

    Returns:
        A model of the same class, in eval mode, whose `save_pretrained` writes a folder that
        `from_pretrained` loads without robustprune.

    Raises:
        ValueError: there are no such layers, masks are still applied on the fly, something else
            computes a weight, or there is a hook.
    """
    check_baked(model)
    blocks = transformer_blocks(model)
    if (family := blocks[0].family) not in _SETTINGS or not hasattr(model, "save_pretrained"):
        raise ValueError(
            f"{type(model).__name__} is no causal language model of transformers with layers like "
            f"those of {' or '.join(_SETTINGS)}; `slim_language` is for BERT and DistilBERT"
        )
    config = copy.deepcopy(cast(Any, model).config)
    heads, pairs, neurons = _SETTINGS[family]
    kept: dict[str, tuple[Span, Tensor]] = {}
    if heads is not None:
        number = _choose(model, gate_groups(model, "head"), kept)
        setattr(config, heads, number * blocks[0].shared)
        setattr(config, cast(str, pairs), number)
        config.head_dim = blocks[0].size
    setattr(config, neurons, _choose(model, gate_groups(model, "neuron"), kept))
    small: nn.Module = type(model)(config).to(next(model.parameters()).dtype)
    state = dict(model.state_dict())
    for name, (span, index) in kept.items():
        state[name] = _selected(state[name], span, index)
        bias = f"{name.removesuffix('weight')}bias"
        if bias in state and _of_outputs(model, name, span):
            state[bias] = _selected(state[bias], replace(span, dim=0), index)
    small.load_state_dict(state)
    if getattr(model, "generation_config", None) is not None:
        small.generation_config = copy.deepcopy(model.generation_config)
    return small.to(next(model.parameters()).device).eval()


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
