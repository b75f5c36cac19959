"""Walk a network in the order in which it runs, and collect each layer's least squares.

For a layer, the dense network and the network pruned so far are run on each batch up to the layer
(or to the addition to its stream), and no further. Where modules follow one another (see `Chain`),
the input of the first one is kept on the CPU for all batches. It is replaced by the input of the
next module while the layers are visited, so that each module runs a few times, and not once for
each later layer. No other activations are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from robustprune.layerwise.cache import Cache, Enough
from robustprune.layerwise.calls import input_of
from robustprune.layerwise.chains import Chain, place_of
from robustprune.layerwise.columns import CONV
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.moments import Moments, of_rows, outputs_of
from robustprune.layerwise.route import Route
from robustprune.layerwise.targets import Stream, TargetName, watching
from robustprune.sparsity import Groups

#: a layer's inputs X̂ are taken after all earlier layers are pruned, or all earlier blocks
After = Literal["layer", "block"]
AFTER: tuple[After, ...] = get_args(After)

#: batch -> runs a network, or a part of it, on that batch
Run = Callable[[int], object]


@dataclass(frozen=True)
class Pair:
    """The dense network, the network pruned so far, and the data on which both are run.

    Attributes:
        dense, pruned: two copies of a network, in eval mode.
        groups: for each layer that is visited, how its weights are divided into groups.
        device: the device of both networks.
        lent: the device of the modules of a chain while they are visited; `device` unless its
            memory is too small.
    """

    dense: nn.Module
    pruned: nn.Module
    groups: Mapping[str, Groups]
    batches: Sequence[Batch]
    device: torch.device
    lent: torch.device

    def both(self) -> tuple[nn.Module, nn.Module]:
        return self.dense, self.pruned


@dataclass(frozen=True)
class Seen:
    """The inputs and streams of layers that share their inputs, from one run.

    Attributes:
        inputs: the input of each call.
        streams: for each layer that writes into a stream, the stream of each call.
    """

    inputs: list[Tensor] = field(default_factory=list)
    streams: dict[str, list[Stream]] = field(default_factory=dict)


def layer_of(network: nn.Module, name: str) -> nn.Module:
    """Return the layer whose weight has this name."""
    return network.get_submodule(name.rpartition(".")[0])


def walk(
    pair: Pair,
    route: Route,
    *,
    target: TargetName,
    after: After = "layer",
    dtype: torch.dtype = torch.float64,
    cached: bool = True,
    solved: Container[str] = (),
) -> Iterator[tuple[tuple[str, ...], Moments | None]]:
    """Yield layers that share their inputs, with their moments, in the order in which they run.

    The caller puts the new weights into `pair.pruned` before it asks for the next layers.

    Args:
        target: see `robustprune.layerwise.targets`.
        after: see `robustprune.layerwise.prune_layerwise`.
        dtype: the dtype of the products.
        cached: False runs the whole network for every layer, for networks whose modules cannot be
            run alone.
        solved: names of layers that need no moments.

    Raises:
        ValueError: inputs or targets are NaN or infinite, or calls differ between the two networks.
    """
    chains = route.chains if cached else ()

    def moments_of(group: tuple[str, ...], runs: Sequence[Run]) -> Moments | None:
        if all(name in solved for name in group):
            return None
        return _gather(pair, route, group, runs, target, dtype)

    done: set[tuple[str, ...]] = set()
    for group in route.groups:
        if group in done:
            continue
        place = place_of(group[0], chains)
        if place is None:
            runs = [_whole(pair, network) for network in pair.both()]
            yield group, moments_of(group, runs)
            continue
        chain = next(chain for chain in chains if place in chain.modules)
        done.update(own for own in route.groups if place_of(own[0], (chain,)) is not None)
        yield from _along(pair, route, chain, moments_of, own=target == "own", after=after)


def _whole(pair: Pair, network: nn.Module) -> Run:
    return lambda number: pair.batches[number].call(network, pair.device)


def _along(
    pair: Pair,
    route: Route,
    chain: Chain,
    moments_of: Callable[[tuple[str, ...], Sequence[Run]], Moments | None],
    *,
    own: bool,
    after: After,
) -> Iterator[tuple[tuple[str, ...], Moments | None]]:
    """Yield the groups inside a chain, module by module."""
    here = {module: [] for module in chain.modules}  # type: dict[str, list[tuple[str, ...]]]
    for group in route.groups:
        if (place := place_of(group[0], (chain,))) is not None:
            here[place].append(group)
    last = max(k for k, module in enumerate(chain.modules) if here[module])
    wanted = pair.both()[own:]
    calls = [lambda net, batch=batch: batch.call(net, pair.device) for batch in pair.batches]
    caches = [Cache(network, chain, calls, pair.lent) for network in wanted]
    for number, name in enumerate(chain.modules[: last + 1]):
        modules = [network.get_submodule(name) for network in wanted]
        try:
            for module in modules:
                module.to(pair.lent)
            runs = [cache.run for cache in caches]
            found = ((group, moments_of(group, [*runs, *runs][-2:])) for group in here[name])
            yield from found if after == "layer" else list(found)
            for cache in caches if number < last else ():
                cache.move_on()
        finally:
            for module in modules:
                module.to(pair.device)


@torch.no_grad()
def _gather(
    pair: Pair,
    route: Route,
    group: tuple[str, ...],
    runs: Sequence[Run],
    target: TargetName,
    dtype: torch.dtype,
) -> Moments:
    """Sum up a group's moments over all batches."""
    layers = {name: layer_of(pair.dense, name) for name in group if target != "own"}
    weights = {name: cast(Tensor, layer.weight).to(dtype) for name, layer in layers.items()}
    moments = Moments(layer_of(pair.pruned, group[0]), pair.groups[group[0]], dtype=dtype)
    streams = [name for name in group if target == "residual" and name in route.streams]
    for number, batch in enumerate(pair.batches):
        now = observe(pair.pruned, group, route, lambda n=number: runs[-1](n), streams)  # type: ignore[misc]
        was = now
        if target != "own":
            was = observe(pair.dense, group, route, lambda n=number: runs[0](n), streams)  # type: ignore[misc]
        if len(was.inputs) != len(now.inputs):
            raise ValueError(
                f"layer {group[0]!r} is called {len(was.inputs)} times in the dense network and "
                f"{len(now.inputs)} times in the pruned one; name it in `dense`, or take the "
                "target 'own'"
            )
        for call, (x, seen) in enumerate(zip(was.inputs, now.inputs, strict=True)):
            if layers and not isinstance(moments.layer, CONV):  # there, lines are copied anyway
                x = x.to(dtype)
            targets: dict[str, Tensor] = {}
            for name, layer in layers.items():
                targets[name] = outputs_of(layer, weights[name], x)
                if name in streams:
                    step = was.streams[name][call].minus(now.streams[name][call], dtype)
                    targets[name] = targets[name] + step
                    scale = was.streams[name][call].scale
                    if scale is not None and (rows := of_rows(layer, scale)) is not None:
                        moments.scale[name] = rows.to(dtype)
            moments.add(seen, targets, batch.counted)
    _refuse_not_finite(moments, group)
    return moments


def observe(
    network: nn.Module,
    group: Sequence[str],
    route: Route,
    run: Callable[[], object],
    streams: Sequence[str] = (),
) -> Seen:
    """Run a network until the inputs and streams of a group's layers are known."""
    seen = Seen(streams={name: [] for name in streams})
    times = route.calls[group[0]]

    def enough() -> None:
        if len(seen.inputs) == times and all(len(s) == times for s in seen.streams.values()):
            raise Enough

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = input_of(args, kwargs)
        assert x is not None
        seen.inputs.append(x.detach().clone())  # later modules may overwrite it
        enough()

    def found(name: str, stream: Stream) -> None:
        seen.streams[name].append(Stream(stream.value.detach().clone(), stream.scale))
        enough()

    handle = layer_of(network, group[0]).register_forward_pre_hook(note, with_kwargs=True)
    try:
        with ExitStack() as stack:
            if streams:
                followed = {name: layer_of(network, name) for name in streams}
                stack.enter_context(watching(network, followed, found))
            run()
    except Enough:
        pass
    finally:
        handle.remove()
    for name, known in seen.streams.items():
        if len(known) != len(seen.inputs):
            raise ValueError(
                f"the output of layer {name!r} is added to a stream in some batches and not in "
                "others; take the target 'dense'"
            )
    return seen


def _refuse_not_finite(moments: Moments, group: tuple[str, ...]) -> None:
    """Raise ValueError where sums are NaN or infinite."""
    if not bool(torch.isfinite(moments.gram).all()):
        raise ValueError(
            f"the inputs of layer {group[0]!r} are NaN or infinite on the calibration data; look "
            "for NaN in the data and in the weights before it, or give the network in float32"
        )
    for name, cross in moments.cross.items():
        if not bool(torch.isfinite(cross).all()):
            raise ValueError(
                f"the outputs that layer {name!r} should give are NaN or infinite; look for NaN in "
                "its weights, or give the network in float32"
            )
