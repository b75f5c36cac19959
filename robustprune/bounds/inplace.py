"""Operations in place: which other values of a traced model they change.

A trace names results, not memory. After ``F.relu(z, inplace=True)``, z itself and the results of
``dropout`` or ``view`` on z, which share its memory, have the new entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import fx, nn

from robustprune.bounds.program import Value
from robustprune.bounds.tensors import Unsupported

#: functions and methods whose result uses the memory of their input
VIEWS = {"view", "squeeze", "unsqueeze", "unflatten"}
VIEWS |= {"dropout", "dropout1d", "dropout2d", "dropout3d"}
VIEW_LAYERS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Unflatten)
#: those whose result may use that memory or be a copy, or use it in another order or a part of it
MAYBE_VIEWS = {"flatten", "reshape", "contiguous", "float", "double", "permute", "transpose"}
MAYBE_VIEWS |= {"swapaxes", "swapdims", "movedim", "moveaxis", "narrow", "select", "getitem"}
MAYBE_VIEWS |= {"split", "chunk", "unbind", "getattr"}
MAYBE_VIEW_LAYERS = (nn.Flatten,)
OPERATORS = {"iadd", "isub", "imul", "itruediv", "ipow", "ifloordiv", "imod"}
#: the position of ``inplace`` among the arguments of a function
PLACE = {"relu": 1, "leaky_relu": 2, **{f"dropout{kind}": 3 for kind in ("", "1d", "2d", "3d")}}
PLACE |= {"relu6": 1, "hardtanh": 3, "elu": 2}
PLACE |= dict.fromkeys(("silu", "mish", "hardswish", "hardsigmoid"), 1)


class Effect(NamedTuple):
    """What an operation does with the memory of its first argument."""

    shares: bool
    surely: bool
    changes: bool

    @classmethod
    def of_layer(cls, layer: nn.Module) -> Effect:
        changes = bool(getattr(layer, "inplace", False))
        surely = changes or isinstance(layer, VIEW_LAYERS)
        return cls(surely or isinstance(layer, MAYBE_VIEW_LAYERS), surely, changes)

    @classmethod
    def of_call(cls, name: str, args: Any, kwargs: Any) -> Effect:
        place = PLACE.get(name, len(args))
        changes = name in OPERATORS or (name.endswith("_") and not name.endswith("__"))
        changes |= bool(kwargs.get("inplace", args[place] if place < len(args) else False))
        surely = changes or name in VIEWS
        return cls(surely or name in MAYBE_VIEWS, surely, changes)


NOTHING = Effect(False, False, False)


@dataclass
class Memory:
    """The values of a graph that share memory, filled in the order of its nodes."""

    owner: dict[fx.Node, fx.Node] = field(default_factory=dict)
    unsure: set[fx.Node] = field(default_factory=set)

    def note(self, node: fx.Node, env: dict[fx.Node, Any], effect: Effect) -> None:
        """Add a node and its value, which other nodes of the memory get if the memory is changed.

        Raises:
            Unsupported: a constant is changed, or a value that shares the memory is used later and
                its meaning is then not known.
        """
        source = node.args[0] if node.args else None
        if effect.changes and not isinstance(env.get(source), Value):  # type: ignore[arg-type]
            raise Unsupported("it changes a constant in place; compute a new one")
        self.owner[node] = node
        if not (effect.shares and isinstance(source, fx.Node) and source in self.owner):
            return
        self.owner[node] = self.owner[source]
        if source in self.unsure or not effect.surely:
            self.unsure.add(node)
        if not effect.changes:
            return
        for other in [o for o in self.owner if self.owner[o] is self.owner[node] and o is not node]:
            if not isinstance(env[other], Value):
                continue
            known = not self.unsure.intersection((node, other))
            if known and env[other].sample.shape == env[node].sample.shape:
                env[other] = env[node]
            elif any(user not in self.owner for user in other.users):
                raise Unsupported(
                    "it changes a value in place that is used again in another shape; use an "
                    "operation that makes a new one"
                )
