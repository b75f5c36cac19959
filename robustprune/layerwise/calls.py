"""Arguments of modules, and the log of a run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

#: types of the values, besides tensors, that arguments may have in a chain
PLAIN = (bool, int, float, str, torch.dtype, torch.device, torch.Size, type(None))


@dataclass(frozen=True)
class Arguments:
    """The arguments of a module, except the first one."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def mapped(self, move: Callable[[Tensor], Tensor]) -> Arguments:
        """Return the same arguments with other tensors."""
        kwargs = {name: mapped(value, move) for name, value in self.kwargs.items()}
        return Arguments(cast("tuple[Any, ...]", mapped(self.args, move)), kwargs)

    def leaves(self) -> list[object]:
        """Return every value in the arguments."""
        return leaves_of([*self.args, *self.kwargs.values()])


def first_and_rest(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[object, Arguments] | None:
    """Return the first positional argument and all others, or None if there is none."""
    if args:
        return args[0], Arguments(args[1:], dict(kwargs))
    return None


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the tensor with which a layer is called."""
    found = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return found[0] if found else None


@dataclass(frozen=True)
class Link:
    """How a module is called, and whether its input is the output of the module before it.

    Attributes:
        source: "whole" for the whole output, "first" for the first entry of a tuple, "tensor" for
            another tensor, None for anything else.
        rest: the other arguments.
    """

    source: str | None
    rest: Arguments


@dataclass(frozen=True)
class Event:
    """The call of a layer, the start or end of a module's call, or an addition to a stream.

    The value of a layer's call is the number of its input; that of a module's start is a Link.
    """

    kind: str
    name: str
    value: int | Link | None = None


@dataclass
class Log:
    """The events of a run. No activations are kept, except the last output in each container.

    Attributes:
        unlike: layers whose outputs do not follow from their weights.
    """

    events: list[Event] = field(default_factory=list)
    unlike: set[str] = field(default_factory=set)
    _input: Callable[[], Tensor | None] = field(default=lambda: None)
    _number: tuple[int, int] = (0, 0)
    _outputs: dict[str, tuple[object, object, int]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Event]:
        """Return the events of a kind."""
        return [event for event in self.events if event.kind == kind]

    def layer(self, name: str, x: Tensor | None) -> None:
        """Note the call of a layer. Successive calls on the same tensor have the same value."""
        version = -1 if x is None or x.is_inference() else x._version
        if x is None or self._input() is not x or self._number[1] != version:
            self._number = self._number[0] + 1, version
            self._input = (lambda: None) if x is None else weakref.ref(x)
        self.events.append(Event("layer", name, self._number[0]))

    def begin(
        self, holder: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Note the start of a module of a container."""
        hidden = args[0] if args else None
        output, first, version = self._outputs.pop(holder, (None, None, 0))
        source = "tensor" if isinstance(hidden, Tensor) else None
        if hidden is not None and _version(hidden) == version:  # nothing was written into it
            source = "whole" if hidden is output else "first" if hidden is first else source
        self.events.append(Event("begin", name, Link(source, Arguments(args[1:], dict(kwargs)))))

    def end(self, holder: str, name: str, output: object) -> None:
        """Note the end of a module of a container."""
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
    """Return every value in tuples, lists and dicts."""
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return [leaf for part in value for leaf in leaves_of(part)]
    if type(value) is dict:
        return [leaf for part in value.values() for leaf in leaves_of(part)]
    return [value]


def mapped(value: object, move: Callable[[Tensor], Tensor]) -> object:
    """Return the value with other tensors, also in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return move(value)
    if type(value) in (tuple, list):
        parts = [mapped(part, move) for part in cast("tuple[object, ...]", value)]
        return parts if isinstance(value, list) else tuple(parts)
    if type(value) is dict:
        return {name: mapped(part, move) for name, part in value.items()}
    return value
