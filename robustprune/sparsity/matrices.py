"""Name the weights of a layer that masks can cover, and the matrices that each of them stacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from robustprune.sparsity.blocks import hf_conv1d

_SINGLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
#: gates of the recurrent networks of torch; their matrices lie one above the other
_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def is_single(module: nn.Module) -> bool:
    """Return whether the layer is linear or a convolution, whose one matrix is `weight`."""
    return isinstance(module, (*_SINGLE, *hf_conv1d()))


def maskable_leaves(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the module's own weights that masks can cover, in its order.

    They are `weight` of a linear layer or a convolution; the weights of an RNN, LSTM or GRU (its
    layers, both directions, input, hidden and projection) or of one of their cells; and
    `in_proj_weight`, or the weights of query, key and value, of nn.MultiheadAttention, whose output
    projection is a linear layer of its own.
    """
    if is_single(module):
        return ("weight",)
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in module._flat_weights_names if name.startswith("weight"))
    if isinstance(module, nn.RNNCellBase):
        return ("weight_ih", "weight_hh")
    if isinstance(module, nn.MultiheadAttention):
        if module._qkv_same_embed_dim:
            return ("in_proj_weight",)
        return ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ()


def stacked_in(module: nn.Module, leaf: str) -> int:
    """Return how many matrices of equal shape a weight stacks along its first dimension: the gates
    of an LSTM (4) or GRU (3); query, key and value in `in_proj_weight` (3); 1 otherwise."""
    if leaf == "in_proj_weight":
        return 3
    if isinstance(module, nn.RNNBase) and not leaf.startswith("weight_hr"):
        return _GATES[module.mode]
    if isinstance(module, nn.RNNCellBase):
        return module.weight_ih.shape[0] // module.hidden_size
    return 1


def bias_of(module: nn.Module, leaf: str) -> Tensor | None:
    """Return the bias that is added to the product with a weight, or None. The bias of query, key
    and value is one tensor, which belongs to the first of their weights."""
    name = "in_proj_bias" if leaf == "q_proj_weight" else leaf.replace("weight", "bias")
    bias = getattr(module, name, None)
    return bias if isinstance(bias, Tensor) else None


def leaf_of(layer: nn.Module, name: str) -> str:
    """Return the name that a weight has in its layer: `weight` in a layer with one, and the last
    part of the parameter's name in others."""
    return "weight" if is_single(layer) else name.rpartition(".")[2]


def weights_of(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the weights by their parameter names, of layers as `maskable_layers` gives them."""
    return {n: cast(Tensor, getattr(layer, leaf_of(layer, n))) for n, layer in layers.items()}


def uses_of(layer: nn.Module, source: Any, output: Any) -> int:
    """Return how often a batch uses each weight of a linear, convolutional or recurrent layer.

    Args:
        source, output: the layer's first input and its output for the batch.
    """
    if isinstance(layer, RECURRENT):  # (..., features), or all steps of packed sequences
        steps = source.data if isinstance(source, PackedSequence) else source
        return int(math.prod(steps.shape[:-1]))
    if isinstance(layer, nn.Linear) or not isinstance(layer, _SINGLE):
        return int(math.prod(output.shape[:-1]))
    where = source if isinstance(layer, _TRANSPOSED) else output
    return len(where) * int(math.prod(where.shape[2:]))
