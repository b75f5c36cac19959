"""Prune whole channels, in all layers that can only lose them together."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprune.deploy.channels import follow
from robustprune.deploy.network import Network
from robustprune.deploy.record import record
from robustprune.deploy.signals import Flow, Flows, Kind, Signal
from robustprune.deploy.silence import make_structural
from robustprune.deploy.vocabulary import TRANSPOSED, tensor_names
from robustprune.minmax import History
from robustprune.search.ticket import Ticket, copy_on
from robustprune.sparsity import MaskSet, apply_masks, bake, check_density, count_kept
from robustprune.sparsity.largest import top_k

#: kinds of layers that make new channels
_MAKERS: tuple[Kind, ...] = ("affine", "heads")


@torch.no_grad()
def prune_channels(
    model: nn.Module, example: Tensor, *, density: float, dense: Iterable[str] = ()
) -> Ticket:
    """Prune channels so that `slim` removes all of them: the best ⌈density · n⌉ of each space stay.

    The outputs of layers that meet in a residual sum, batch norm behind them and depthwise
    convolutions that read them have one space of n channels; the heads of a self-attention are one.
    A channel's score is the norm of all weights that go with it: its filters, its depthwise
    filters, its queries, keys and values, and the columns that read it (Li et al. 2017, arXiv
    1608.08710, for a group of layers as in Fang et al. 2023, arXiv 2301.12900). The masks cover
    these weights, and the biases and the scale and shift of batch norm of pruned channels, which
    are then exactly zero up to the next layer. Train the result with `finetune_ticket(ticket, ...,
    mode="inherit")`.

    Args:
        model: the network, which is copied and never changed.
        example: a batch (N, ...) on the model's device; only its shape is used.
        density: the fraction of the channels of each space that is kept, in (0, 1].
        dense: layers that keep all of their output channels: names of modules, or patterns.

    Raises:
        ValueError: `density` is outside (0, 1], a name in `dense` fits no layer, `record` refuses
            the network, or it has no channels that can be removed.
    """
    check_density(density)
    network = copy_on(model, None)
    traced = record(network)
    weights = {name: tensor.detach().clone() for name, tensor in traced.named_parameters()}
    make_structural(traced, {})
    flows = follow(traced, example)
    scores = _scores(flows, traced, weights)
    gone = np.zeros(len(flows.fates), dtype=bool)
    for space in _spaces(flows, _pinned(flows, dense)):
        kept = top_k(scores[torch.from_numpy(space)], count_kept(density, len(space)))
        gone[space[~kept.numpy()]] = True
    if not gone.any() and density < 1:
        raise ValueError(
            f"{type(model).__name__} has no channels that can be removed at density {density:g}: "
            "all of them reach the output, a layer in `dense`, or a layer that can't be cut"
        )
    masks = MaskSet(_masks(flows, traced, gone))
    apply_masks(network, masks)
    return Ticket(masks, bake(network), History())


def _roots(flows: Flows, signal: Signal) -> NDArray[np.int64]:
    return flows.fates.find(signal.fates)


def _pinned(flows: Flows, dense: Iterable[str]) -> set[int]:
    """Return the fates of channels that must all stay."""
    fixed = set(flows.pinned)
    for wanted in (dense,) if isinstance(dense, str) else dense:
        paths = {flow.step.target: flow.step.name for flow in flows.flows if flow.kind in _MAKERS}
        names = fnmatch.filter(paths, wanted)
        if not names:
            raise ValueError(
                f"cannot keep {wanted!r} dense: no such layer; use one of {', '.join(paths)}"
            )
        fixed.update(paths[name] for name in names)
    signals = {flow.step.name: flow.out for flow in flows.flows}
    return {
        int(fate)
        for name in fixed
        if (signal := signals.get(name)) is not None
        for fate in _roots(flows, signal)
    }


def _spaces(flows: Flows, pinned: set[int]) -> list[NDArray[np.int64]]:
    """Return the fates that may go, those of layers that share a fate together."""
    spaces: list[set[int]] = []
    for flow in flows.flows:
        if flow.kind in _MAKERS and flow.out is not None:
            own = {int(fate) for fate in _roots(flows, flow.out)}
            touching = [space for space in spaces if space & own]
            spaces = [space for space in spaces if not space & own]
            spaces.append(own.union(*touching))
    free = [sorted(space - pinned) for space in spaces]
    return [np.array(space, dtype=np.int64) for space in free if space]


def _scores(flows: Flows, network: Network, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the norm of the weights that go with each fate, float64, on the CPU."""
    squares = torch.zeros(len(flows.fates), dtype=torch.float64)
    for flow in flows.flows:
        layer = network.layer(flow.step)
        if layer is None or flow.kind not in (*_MAKERS, "depthwise"):
            continue
        name = f"{flow.step.target}.{tensor_names(layer)[0]}"
        weight = weights[name].to("cpu", torch.float64).square()
        if flow.kind == "heads":
            weight = torch.stack(weight.chunk(3)).sum(0)  # queries, keys and values
        for dim, signal in _sides(flow, network).items():
            if signal is not None:
                summed = weight.sum([d for d in range(weight.ndim) if d != dim])
                squares.index_add_(0, torch.from_numpy(_roots(flows, signal)), summed)
    return squares.sqrt()


def _sides(flow: Flow, network: Network) -> dict[int, Signal | None]:
    """Return the dimensions of a layer's weight that count channels, with these channels."""
    out = 1 if isinstance(network.layer(flow.step), TRANSPOSED) else 0
    if flow.kind == "depthwise":
        return {out: flow.out}
    (source,) = flow.sources.values()
    return {out: flow.out, 1 - out: source}


def _masks(flows: Flows, network: Network, gone: NDArray[np.bool_]) -> dict[str, Tensor]:
    """Return masks of the weights, and of biases and norms where channels are gone."""
    masks: dict[str, Tensor] = {}
    for flow in flows.flows:
        layer = network.layer(flow.step)
        if layer is None or flow.out is None or flow.kind not in (*_MAKERS, "depthwise", "norm"):
            continue
        alive = torch.from_numpy(~gone[_roots(flows, flow.out)])
        matrix, *vectors = tensor_names(layer)
        times = 3 if flow.kind == "heads" else 1  # queries, keys and values
        if flow.kind == "norm":
            vectors.append("weight")
        else:
            name = f"{flow.step.target}.{matrix}"
            mask = torch.ones(network.get_parameter(name).shape, dtype=torch.bool)
            for dim, signal in _sides(flow, network).items():
                if signal is not None:
                    here = torch.from_numpy(~gone[_roots(flows, signal)])
                    here = here.repeat(times) if signal is flow.out else here
                    mask &= here.view([-1 if d == dim else 1 for d in range(mask.ndim)])
            masks[name] = mask
        for vector in vectors:
            if isinstance(getattr(layer, vector), Tensor) and not bool(alive.all()):
                masks[f"{flow.step.target}.{vector}"] = alive.repeat(times)
    return masks
