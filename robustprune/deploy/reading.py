"""Which channels have to stay: those whose value reaches the output."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprune.deploy.network import Network
from robustprune.deploy.signals import Flow, Flows, Signal, leaks, weight_matrix

Kept = dict[str, NDArray[np.bool_] | None]


def kept_channels(network: Network, flows: Flows) -> Kept:
    """For each step's result a bool array (C,) of the channels that stay; None means all.

    A channel stays if it varies and some later layer reads it into something that varies and is
    read in turn, up to the output; or if it is a constant that a zero-padding layer reads, where
    no bias can take its place. What shares its fate stays with it. A tensor that would lose all
    of its channels keeps the first.
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
    """By step, (C,) bool: the channel itself must be there, for what reads it."""
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
    """(C,) bool: the channels of `source` that have to be there for the `wanted` outputs."""
    if flow.kind == "affine":
        layer = network.layer(flow.step)
        assert layer is not None
        read = (weight_matrix(layer) != 0).any(2)[wanted].any(0)
        if leaks(layer):
            return read & (~source.constant | source.nonzero())
        return read & ~source.constant
    if flow.kind == "flatten":
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
