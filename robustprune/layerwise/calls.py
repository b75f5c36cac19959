"""What modules are called with, and the log of a run."""

from __future__ import annotations

import weakref
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


@dataclass(frozen=True)
class Link:
    """How a module is called: whether it is given what the module before it gave.

    Attributes:
        source: "whole" for all of it, "first" for the first of a tuple, "tensor" for another
            tensor, None for something else.
        rest: the other arguments.
    """

    source: str | None
    rest: Arguments


@dataclass(frozen=True)
class Event:
    """A call of a layer (its value says which input it has), the begin of a module's call (its
    value is a Link) and its end, or an addition to a stream."""

    kind: str
    name: str
    value: int | Link | None = None


@dataclass
class Log:
    """What happens in a run. No activations are kept, but the last output in each container.

    Attributes:
        unlike: layers that don't answer as their weights say.
    """

    events: list[Event] = field(default_factory=list)
    unlike: set[str] = field(default_factory=set)
    _input: Callable[[], Tensor | None] = field(default=lambda: None)
    _number: tuple[int, int] = (0, 0)
    _outputs: dict[str, tuple[object, object, int]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Event]:
        """The events of a kind."""
        return [event for event in self.events if event.kind == kind]

    def layer(self, name: str, x: Tensor | None) -> None:
        """A layer is called. Calls one after the other on the same tensor have the same value."""
        version = -1 if x is None or x.is_inference() else x._version
        if x is None or self._input() is not x or self._number[1] != version:
            self._number = self._number[0] + 1, version
            self._input = (lambda: None) if x is None else weakref.ref(x)
        self.events.append(Event("layer", name, self._number[0]))

    def begin(
        self, holder: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """A module of a container is called."""
        hidden = args[0] if args else None
        output, first, version = self._outputs.pop(holder, (None, None, 0))
        source = "tensor" if isinstance(hidden, Tensor) else None
        if hidden is not None and _version(hidden) == version:  # nothing was written into it
            source = "whole" if hidden is output else "first" if hidden is first else source
        self.events.append(Event("begin", name, Link(source, Arguments(args[1:], dict(kwargs)))))

    def end(self, holder: str, name: str, output: object) -> None:
        """A module of a container returns."""
        first = output[0] if isinstance(output, tuple) and output else None
        self._outputs[holder] = output, first, _version(output if first is None else first)
        self.events.append(Event("end", name))


def _version(value: object) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


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
