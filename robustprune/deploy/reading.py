"""Find the channels that must stay, because their values reach the output."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprune.deploy.attention import AttentionHeads
from robustprune.deploy.network import Network
from robustprune.deploy.signals import Flow, Flows, Signal, leaks, weight_matrix

Kept = dict[str, NDArray[np.bool_] | None]


def kept_channels(network: Network, flows: Flows) -> Kept:
    """Return for each step's result a bool array (C,) of the channels that stay; None means all.

    A channel stays if it is not constant and reaches the output through channels that are not
    constant. A constant channel stays only if a layer that pads zeros reads it, because no bias can
    replace it there. Channels that can only be removed together (see `signals`) stay together. A
    tensor that would lose all of its channels keeps the first one.
    """
    alive = _alive(network, flows)
    stay = np.zeros(len(flows.fates), dtype=bool)
    signals = {flow.step.name: flow.out for flow in flows.flows}
    for name, signal in signals.items():
        if signal is not None:
            stay[flows.fates.find(signal.fates)[alive[name].numpy()]] = True
    kept: Kept = {}
    for name, signal in signals.items():
        if signal is None:
            kept[name] = None
            continue
        roots = flows.fates.find(signal.fates)
        if not stay[roots].any():
            stay[roots[0]] = True
    for name, signal in signals.items():
        kept[name] = None if signal is None else stay[flows.fates.find(signal.fates)]
    return kept


def _alive(network: Network, flows: Flows) -> dict[str, Tensor]:
    """Return for each step (C,) bool: whether the channel itself is needed by a later step."""
    alive = {
        flow.step.name: torch.full_like(flow.out.constant, flow.step.name in flows.pinned)
        for flow in flows.flows
        if flow.out is not None
    }
    for flow in reversed(flows.flows):
        for name, source in flow.sources.items():
            if source is not None and flow.out is not None:
                wanted = alive[flow.step.name] & ~flow.out.constant
                alive[name] |= _read(network, flow, name, source, wanted)
    return alive


def _read(network: Network, flow: Flow, name: str, source: Signal, wanted: Tensor) -> Tensor:
    """Return (C,) bool: the channels of `source` that the `wanted` outputs need."""
    if flow.kind in ("affine", "heads"):
        layer = network.layer(flow.step)
        assert layer is not None
        if isinstance(layer, AttentionHeads):  # a head takes all of its queries, keys and values
            heads = wanted.view(layer.heads, layer.head_size).any(1)
            wanted = heads.repeat_interleave(layer.head_size).repeat(3)
        read = (weight_matrix(layer) != 0).any(2)[wanted].any(0)
        if leaks(layer):
            return read & (~source.constant | source.nonzero())
        return read & ~source.constant
    if flow.kind in ("flatten", "depthwise"):
        return wanted.reshape(len(source.constant), -1).any(1)
    if flow.kind == "join":
        found = torch.zeros_like(source.constant)
        start = 0
        for ref in flow.step.refs:
            part = flow.sources[ref]
            assert part is not None
            if ref == name:
                found |= wanted[start : start + len(found)]
            start += len(part.constant)
        return found
    return wanted
