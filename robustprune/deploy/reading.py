"""Find the channels that must stay, because their values reach the output."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprune.deploy.network import Network
from robustprune.deploy.signals import Flow, Flows, Signal, is_grouped, leaks, weight_matrix

Kept = dict[str, NDArray[np.bool_] | None]


def kept_channels(network: Network, flows: Flows) -> Kept:
    """Return for each step's result a bool array (C,) of the channels that stay; None means all.

    A channel stays if it is not constant and reaches the output through channels that are not
    constant. A constant channel stays only if a layer that pads zeros reads it, because no bias can
    replace it there. Channels that can only be removed together (see `signals`) stay together. A
    tensor that would lose all of its channels keeps the first one. All groups of a convolution that
    keep a channel keep the same number, so that some may keep constant ones.
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
    while any(_fill_groups(network, flows, flow, stay) for flow in flows.flows):
        pass
    for name, signal in signals.items():
        kept[name] = None if signal is None else stay[flows.fates.find(signal.fates)]
    return kept


def _fill_groups(network: Network, flows: Flows, flow: Flow, stay: NDArray[np.bool_]) -> bool:
    """Let more channels stay where groups of a convolution would keep different numbers; return
    whether there are any."""
    if flow.kind != "grouped":
        return False
    layer = network.layer(flow.step)
    assert layer is not None
    assert is_grouped(layer)
    (source,) = flow.sources.values()
    sides = [flows.fates.find(s.fates).reshape(layer.groups, -1) for s in (flow.out, source) if s]
    used = np.any([stay[roots].any(1) for roots in sides], axis=0)
    if source is None:  # the network's input, of which all channels stay
        used[:] = True
    filled = False
    for roots in sides:
        wanted = max(1, int(stay[roots].sum(1).max()))
        for own in roots[used]:
            missing = wanted - int(stay[own].sum())
            filled |= missing > 0
            stay[own[~stay[own]][: max(0, missing)]] = True
    return filled


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
    if flow.kind in ("affine", "grouped"):
        layer = network.layer(flow.step)
        assert layer is not None
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
