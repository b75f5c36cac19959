"""What modules are called with, and the log of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

#: values that a call may hold besides tensors, and that are the same in every call
PLAIN = (bool, int, float, str, torch.dtype, torch.device, torch.Size, type(None))


@dataclass(frozen=True)
class Arguments:
    """What a module is called with, besides the first argument."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def mapped(self, move: Callable[[Tensor], Tensor]) -> Arguments:
        """The same with other tensors."""
        kwargs = {name: mapped(value, move) for name, value in self.kwargs.items()}
        return Arguments(cast("tuple[Any, ...]", mapped(self.args, move)), kwargs)

    def leaves(self) -> list[object]:
        """Every value in it."""
        return leaves_of([*self.args, *self.kwargs.values()])


def first_and_rest(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[object, Arguments] | None:
    """The first argument, which may have a name, and the others; None if there is none."""
    if args:
        return args[0], Arguments(args[1:], dict(kwargs))
    return None


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that a layer is called with."""
    found = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return found[0] if found else None


@dataclass
class Event:
    """A call of a layer, the begin and the end of a module's call, or an addition."""

    kind: str
    name: str
    value: Any = None


@dataclass
class Log:
    events: list[Event] = field(default_factory=list)
    unlike: set[str] = field(default_factory=set)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def equal(one: Arguments, other: Arguments) -> bool:
    left, right = one.leaves(), other.leaves()
    return len(left) == len(right) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(left, right, strict=True)
    )


def leaves_of(value: object) -> list[object]:
    """Every value in tuples, lists and dicts."""
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return [leaf for part in value for leaf in leaves_of(part)]
    if type(value) is dict:
        return [leaf for part in value.values() for leaf in leaves_of(part)]
    return [value]


def mapped(value: object, move: Callable[[Tensor], Tensor]) -> object:
    """The value with other tensors, in tuples, lists and dicts, too."""
    if isinstance(value, Tensor):
        return move(value)
    if type(value) in (tuple, list):
        parts = [mapped(part, move) for part in cast("tuple[object, ...]", value)]
        return parts if isinstance(value, list) else tuple(parts)
    if type(value) is dict:
        return {name: mapped(part, move) for name, part in value.items()}
    return value
