"""Make networks really smaller: pruned filters, neurons and channels are removed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprune.deploy.attention import AttentionHeads
from robustprune.deploy.channels import follow
from robustprune.deploy.copies import baked, check_equal
from robustprune.deploy.network import Network
from robustprune.deploy.reading import kept_channels
from robustprune.deploy.record import record
from robustprune.deploy.signals import Signal, leaks, weight_matrix
from robustprune.deploy.vocabulary import CONVOLUTIONS, NORMS, TRANSPOSED, tensor_names
from robustprune.sparsity import MaskSet


@torch.no_grad()
def slim(model: nn.Module, masks: MaskSet | None, example: Tensor) -> Network:
    """Return a dense, smaller network with the same outputs as `model` under `masks`, in eval mode.

    Output channels, filters and neurons are removed if they are constant or if no later layer reads
    them. The input channels and columns of later layers go with them, through batch norm, pooling,
    flattening, concatenation and residual sums. A constant other than zero is added to the bias of
    the layer that reads it. If that layer pads zeros, the effect of the constant depends on the
    position, and the channel stays. A residual sum loses a channel only if all summands can lose
    it. A depthwise convolution loses the filters of its input's channels. Self-attention loses
    whole heads: the rows of their queries, keys and values, and the columns that read them. Layers
    that are called twice, layers that share a parameter with another and convolutions in other
    groups stay whole, so the result never has more parameters than `model`. A layer never loses its
    last channel, nor its last head.

    Args:
        masks: the masks of `model`; None if its pruned weights are zero already.
        example: a batch (N, ...) on the model's device; it gives the shapes, and the result is
            checked on it.

    Raises:
        ValueError: the masks don't fit, `record` refuses the network, or outputs on `example`
            differ by more than rounding does (or are not finite).
    """
    plain = baked(model, masks)
    network = record(plain)
    flows = follow(network, example)
    kept = kept_channels(network, flows)
    for flow in flows.flows:
        layer = network.layer(flow.step)
        if layer is None or flow.out is None:
            continue
        outs = _index(kept[flow.step.name])
        if flow.kind in ("affine", "heads"):
            (name,) = flow.step.refs
            source, ins = flow.sources[name], kept[name]
            _move_constants_to_bias(layer, source, ins)
            cut = _cut_heads if flow.kind == "heads" else _cut_affine
            cut(layer, outs, None if ins is None else _index(ins))
        elif flow.kind == "depthwise":
            _cut_depthwise(layer, outs)
        elif flow.kind == "norm":
            _cut_norm(layer, outs)
    check_equal(plain, network, example)
    return network


def _index(kept: NDArray[np.bool_] | None) -> Tensor:
    assert kept is not None
    return torch.from_numpy(np.flatnonzero(kept))


def _move_constants_to_bias(
    layer: nn.Module, source: Signal | None, kept: NDArray[np.bool_] | None
) -> None:
    """Add to each output what the removed constant inputs contribute: Σ_i c_i Σ_k W[o, i, k]."""
    if source is None or kept is None or leaks(layer):
        return
    gone = source.nonzero() & ~torch.from_numpy(kept)
    if not bool(gone.any()):
        return
    constant = weight_matrix(layer).sum(2)[:, gone] @ source.value[gone]
    weight, bias = (getattr(layer, name) for name in tensor_names(layer))
    if isinstance(bias, Tensor):
        constant = constant + bias.detach().to("cpu", torch.float64)
    constant = constant.to(weight.device, weight.dtype)
    setattr(layer, tensor_names(layer)[1], nn.Parameter(constant, weight.requires_grad))


def _cut_affine(layer: nn.Module, outs: Tensor, ins: Tensor | None) -> None:
    """Keep only the output channels `outs` and the input channels `ins` of a layer, in place."""
    out_dim, in_dim = (1, 0) if isinstance(layer, TRANSPOSED) else (0, 1)
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    shorter = weight.index_select(out_dim, outs.to(weight.device))
    if ins is not None:
        shorter = shorter.index_select(in_dim, ins.to(weight.device))
    layer.weight = nn.Parameter(shorter.contiguous(), weight.requires_grad)
    if isinstance(layer.bias, nn.Parameter):
        _select(layer, "bias", outs)
    names = ("in_features", "out_features")
    if not isinstance(layer, nn.Linear):
        names = ("in_channels", "out_channels")
    setattr(layer, names[0], shorter.shape[in_dim])
    setattr(layer, names[1], shorter.shape[out_dim])


def _cut_heads(layer: nn.Module, outs: Tensor, ins: Tensor | None) -> None:
    """Keep only the heads with the features `outs`, and the input channels `ins`, in place."""
    assert isinstance(layer, AttentionHeads)
    weight = layer.in_proj_weight
    width = layer.heads * layer.head_size
    rows = torch.cat([outs + part * width for part in range(3)])  # queries, keys, values
    shorter = weight.index_select(0, rows.to(weight.device))
    if ins is not None:
        shorter = shorter.index_select(1, ins.to(weight.device))
    layer.in_proj_weight = nn.Parameter(shorter.contiguous(), weight.requires_grad)
    if layer.in_proj_bias is not None:
        _select(layer, "in_proj_bias", rows)
    layer.heads, layer.in_features = len(outs) // layer.head_size, shorter.shape[1]


def _cut_depthwise(layer: nn.Module, outs: Tensor) -> None:
    """Keep only the channels `outs` of a depthwise convolution, in place."""
    assert isinstance(layer, CONVOLUTIONS)
    times = layer.out_channels // layer.in_channels
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            _select(layer, name, outs)
    layer.out_channels = len(outs)
    layer.in_channels = layer.groups = len(outs) // times


def _cut_norm(layer: nn.Module, outs: Tensor) -> None:
    assert isinstance(layer, NORMS)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(layer, name) is not None:
            _select(layer, name, outs)
    layer.num_features = len(outs)


def _select(layer: nn.Module, name: str, index: Tensor) -> None:
    """Keep only the entries `index` of a vector of the layer, which is a parameter or a buffer."""
    old = getattr(layer, name)
    new = old.detach().index_select(0, index.to(old.device))
    setattr(layer, name, nn.Parameter(new, old.requires_grad) if name in layer._parameters else new)
