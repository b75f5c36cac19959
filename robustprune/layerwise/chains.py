"""Modules that follow one another, where the output of each is the input of the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robustprune.layerwise.calls import PLAIN, Arguments, Link, Log, equal, first_and_rest, mapped


@dataclass(frozen=True)
class Chain:
    """Modules that are called once each, where the output of each is the input of the next.

    Attributes:
        modules: the names of the modules, in order.
        first: for each module after the first, whether its input is the first entry of an output
            tuple.
        alone: whether no module has other arguments than its input.
    """

    modules: tuple[str, ...]
    first: tuple[bool, ...]
    alone: bool


def place_of(layer: str, chains: Sequence[Chain]) -> str | None:
    """Return the module of a chain that contains a layer, or None."""
    for chain in chains:
        for module in chain.modules:
            if layer.startswith(f"{module}."):
                return module
    return None


def chain_of(
    network: nn.Module, log: Log, name: str, container: nn.Module, call: Callable[[], object]
) -> Chain | None:
    """Return the children of a container as a chain, or None if they are not one."""
    names = [f"{name}.{child}".lstrip(".") for child, _ in container.named_children()]
    marks = [(i, e) for i, e in enumerate(log.events) if e.name in names and e.kind != "layer"]
    wanted = [(kind, child) for child in names for kind in ("begin", "end")]
    if [(event.kind, event.name) for _, event in marks] != wanted:
        return None
    begins, ends = marks[::2], marks[1::2]
    if not _keeps_to_itself(log, names, [i for i, _ in begins], [i for i, _ in ends]):
        return None
    links = [event.value for _, event in begins if isinstance(event.value, Link)]
    given = [link.rest for link in links]
    every = [leaf for rest in given for leaf in rest.leaves()]
    if not all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in every):
        return None
    sources = [link.source for link in links]
    if sources[0] is None or not all(source in ("whole", "first") for source in sources[1:]):
        return None
    first = tuple(source == "first" for source in sources[1:])
    # None, too, may be a mask in another batch
    if every and _moves_with_first(network, names, given, call):
        return None
    return Chain(tuple(names), first, not every)


def outermost(network: nn.Module, chains: Mapping[str, Chain]) -> list[Chain]:
    """Return the chains that are in no other chain, with inner chains inserted in their places.

    Args:
        chains: chains by the name of their container, outer ones before inner ones.
    """
    found: list[Chain] = []
    for name, chain in chains.items():
        if not any(f"{name}.".startswith(f"{m}.") for other in found for m in other.modules):
            found.append(chain)
    return [_opened(network, chain, chains) for chain in found]


def _opened(network: nn.Module, chain: Chain, chains: Mapping[str, Chain]) -> Chain:
    """Return the chain with its inner `Sequential` chains inserted in their places."""
    if not chain.alone:
        return chain
    modules: list[str] = []
    first: list[bool] = []
    for place, module in enumerate(chain.modules):
        inner = chains.get(module)
        plain = type(network.get_submodule(module)) is nn.Sequential
        if inner is None or not plain or not inner.alone:
            inner = Chain((module,), (), alone=True)
        inner = _opened(network, inner, chains) if len(inner.modules) > 1 else inner
        first += [chain.first[place - 1]] if place else []
        modules, first = [*modules, *inner.modules], [*first, *inner.first]
    return Chain(tuple(modules), tuple(first), alone=True)


def _keeps_to_itself(log: Log, names: list[str], begins: list[int], ends: list[int]) -> bool:
    """Return whether layers in these modules are called, and added to streams, only inside of them.

    No other layer may be called in between.
    """
    for place, event in enumerate(log.events):
        if event.kind not in ("layer", "stream"):
            continue
        owner = next((k for k, n in enumerate(names) if event.name.startswith(f"{n}.")), None)
        if owner is None:
            if event.kind == "layer" and begins[0] < place < ends[-1]:
                return False
        elif not begins[owner] < place < ends[owner]:
            return False
    return True


def _moves_with_first(
    network: nn.Module, names: list[str], given: list[Arguments], call: Callable[[], object]
) -> bool:
    """Return whether other arguments of later modules depend on the output of the first one."""
    again: list[Arguments] = []

    def other(_: nn.Module, args: tuple[Any, ...], output: object) -> object:
        return mapped(output, lambda t: t * 1.25 + 0.125 if t.is_floating_point() else t)

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = first_and_rest(args, kwargs)
        again.append(Arguments((), {}) if found is None else found[1])

    parts = [network.get_submodule(name) for name in names]
    handles = [part.register_forward_pre_hook(note, with_kwargs=True) for part in parts]
    handles.append(parts[0].register_forward_hook(other))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return len(again) != len(given) or not all(map(equal, again, given))
