"""The route of data through a network, which is found by running it on one batch.

It says which layers are called, in which order and how often; which layers share their inputs;
which write into a residual stream; and where modules follow one another, so that one can be run
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustprune.layerwise.calls import Event, Log, input_of, leaves_of
from robustprune.layerwise.chains import Chain, chain_of, outermost, place_of
from robustprune.layerwise.moments import geometry, outputs_of
from robustprune.layerwise.targets import watching

#: largest relative difference of a layer's output from the output that its weight gives
_CLOSE = 0.02


@dataclass(frozen=True)
class Route:
    """The structure of a network, from a run on one batch; layers have the names of their weights.

    Attributes:
        calls: number of calls of each layer in that batch, in the order of their first calls. In
            other batches, at most as many calls are seen.
        groups: successive layers that share their inputs; each layer is in one group.
        streams: layers whose outputs are all added to a residual stream.
        chains: see `Chain`; no module is in two of them.
        unlike: layers whose outputs do not follow from their weights.
    """

    calls: Mapping[str, int]
    groups: tuple[tuple[str, ...], ...]
    streams: frozenset[str]
    chains: tuple[Chain, ...]
    unlike: tuple[str, ...]


@torch.no_grad()
def find_route(
    network: nn.Module, layers: Mapping[str, nn.Module], call: Callable[[], object]
) -> Route:
    """Run the network in its present mode, and return its route.

    Args:
        layers: the layers to follow, by the names of their weights.
        call: function that runs the network on a batch.
    """
    containers: list[tuple[str, nn.Module]] = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 1
    ]
    before = _kept(network)
    log = _run(network, layers, containers, call)
    after = _kept(network)  # `before` holds its tensors, so that no other one has their ids
    if {k: v[:2] for k, v in before.items()} != {k: v[:2] for k, v in after.items()}:
        containers = []  # a module that is run alone may read what another one kept
    calls: dict[str, int] = {}
    for event in log.of("layer"):
        if event.name not in log.unlike:
            calls[event.name] = calls.get(event.name, 0) + 1
    streams = [event.name for event in log.of("stream")]
    found = {name: chain_of(network, log, name, module, call) for name, module in containers}
    chains = outermost(network, {name: c for name, c in found.items() if c is not None})
    return Route(
        calls=calls,
        groups=_groups(log, layers, calls, chains),
        streams=frozenset(name for name, times in calls.items() if streams.count(name) == times),
        chains=tuple(chains),
        unlike=tuple(name for name in layers if name in log.unlike),
    )


def _kept(network: nn.Module) -> dict[tuple[str, str, int], tuple[int, int, Tensor]]:
    """Return the identity and version of every tensor in the attributes of modules."""
    return {
        (name, attribute, place): (id(leaf), 0 if leaf.is_inference() else leaf._version, leaf)
        for name, module in network.named_modules()
        for attribute, value in vars(module).items()
        for place, leaf in enumerate(leaves_of(value))
        if isinstance(leaf, Tensor)
    }


def _run(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    containers: list[tuple[str, nn.Module]],
    call: Callable[[], object],
) -> Log:
    log, handles = Log(), []

    def begin_layer(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            log.layer(name, input_of(args, kwargs))

        return hook

    def end_layer(name: str) -> Callable[..., None]:
        def hook(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
        ) -> None:
            if not _as_its_weight(layer, input_of(args, kwargs), output):
                log.unlike.add(name)

        return hook

    def begin(holder: str, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            log.begin(holder, name, args, kwargs)

        return hook

    def end(holder: str, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: object) -> None:
            log.end(holder, name, output)

        return hook

    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(begin_layer(name), with_kwargs=True))
        handles.append(layer.register_forward_hook(end_layer(name), with_kwargs=True))
    for holder, module in containers:
        for child, part in module.named_children():
            name = f"{holder}.{child}".lstrip(".")
            # before the hooks of layers, because a module may be a layer itself
            handles.append(
                part.register_forward_pre_hook(begin(holder, name), with_kwargs=True, prepend=True)
            )
            handles.append(part.register_forward_hook(end(holder, name)))
    try:
        with watching(network, layers, lambda n, _: log.events.append(Event("stream", n))):
            call()
    finally:
        for handle in handles:
            handle.remove()
    return log


def _as_its_weight(layer: nn.Module, x: Tensor | None, output: object) -> bool:
    if x is None or not isinstance(output, Tensor):
        return False
    weight, bias = cast(Tensor, layer.weight), layer.bias
    try:
        expected = outputs_of(layer, weight, x.to(weight.dtype))
    except RuntimeError:
        return False
    if expected.shape != output.shape:
        return False
    if isinstance(bias, Tensor):
        dims = len(getattr(layer, "kernel_size", ()))
        expected = expected + bias.view(-1, *[1] * dims)
    apart = (output.float() - expected.float()).norm()
    size = output.float().norm()
    return bool(apart <= _CLOSE * size) or not bool(torch.isfinite(size))


def _groups(
    log: Log, layers: Mapping[str, nn.Module], calls: Mapping[str, int], chains: list[Chain]
) -> tuple[tuple[str, ...], ...]:
    """Return groups of layers that are called once each, successively, on the same tensor."""
    groups: list[tuple[str, ...]] = []
    last: tuple[object, ...] | None = None
    seen: set[str] = set()
    for event in log.of("layer"):
        name = event.name
        if name in seen or name not in calls:
            continue
        seen.add(name)
        key = (event.value, geometry(layers[name]), place_of(name, chains))
        if last == key and calls[name] == 1:
            groups[-1] = (*groups[-1], name)
        else:
            groups.append((name,))
        last = key if calls[name] == 1 else None
    return tuple(groups)
