"""Extend masks for whole filters to the bias and the batch norm behind these filters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustprune.deploy.channels import follow
from robustprune.deploy.copies import baked, inner_names, wrapper
from robustprune.deploy.network import Network
from robustprune.deploy.record import record
from robustprune.deploy.vocabulary import NORMS
from robustprune.sparsity import MaskSet, group_weight, is_single


@torch.no_grad()
def silence(model: nn.Module, masks: MaskSet, example: Tensor) -> MaskSet:
    """Return `masks` with masks of the bias and of batch norm's scale and shift for pruned filters.

    A filter without weights still outputs its bias, and then batch norm's shift. If a convolution
    with zero padding reads such a constant, it can't be removed exactly. With these masks on during
    training, a pruned filter outputs exactly zero up to the next layer, and `slim` removes it.
    Batch norm behind a residual sum is masked where all summands are zero.

    The additional masks are for parameters that a density usually doesn't count. So report the
    density of `masks`, and train with the result.

    Args:
        example: a batch (N, ...) on the model's device; only its shape is used.

    Raises:
        ValueError: the masks don't fit the model, or `record` refuses the network.
    """
    baked(model, masks)  # refuses masks that don't fit
    network, prefix = record(model), wrapper(model)
    given, masks = masks, inner_names(model, masks)
    extra: dict[str, Tensor] = {}
    make_structural(network, masks)
    layers = dict(network.named_modules())
    for name, mask in masks.items():
        path, _, leaf = name.rpartition(".")
        layer = layers.get(path) if leaf == "weight" else None
        if layer is not None and is_single(layer) and isinstance(layer.bias, Tensor):
            alive = group_weight(layer, "filter").reduce(mask.float()) > 0
            _prune(layer.bias, alive, f"{path}.bias", extra)
    # A silent batch norm can make a sum silent that was not silent in an earlier pass.
    while True:
        found = len(extra), sum(int(mask.sum()) for mask in extra.values())
        for flow in follow(network, example).flows:
            layer = network.layer(flow.step)
            (source,) = flow.sources.values() if len(flow.sources) == 1 else (None,)
            if isinstance(layer, NORMS) and flow.kind == "norm" and source and layer.affine:
                alive = ~(source.constant & (source.value == 0))
                _prune(layer.weight, alive, f"{flow.step.target}.weight", extra)
                _prune(layer.bias, alive, f"{flow.step.target}.bias", extra)
        if found == (len(extra), sum(int(mask.sum()) for mask in extra.values())):
            break
    if not extra:
        return given
    return given & MaskSet({f"{prefix}{name}": mask for name, mask in extra.items()})


def make_structural(network: Network, masks: Mapping[str, Tensor]) -> None:
    """Make every parameter positive and the pruned ones zero, so that zero means pruned."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        # all different: equal constants could cancel in a difference of two branches
        parameter.copy_(1.0 + torch.rand(parameter.shape, generator=generator))
        if name in masks:
            parameter.mul_(masks[name].to(parameter.device, parameter.dtype))
    for layer in network.modules():
        if isinstance(layer, NORMS):
            layer.reset_running_stats()


def _prune(parameter: Tensor, alive: Tensor, name: str, extra: dict[str, Tensor]) -> None:
    """Set the entries to zero that are not alive, and note their mask if there are any."""
    if not bool(alive.all()):
        parameter.mul_(alive.to(parameter.device, parameter.dtype))
        extra[name] = alive & extra.get(name, torch.ones_like(alive))
