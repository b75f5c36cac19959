"""Find in-place operations in a traced forward method, and refuse those that can't be rewritten."""

from __future__ import annotations

import operator

from torch import Tensor, fx, nn

from robustprune.deploy.calls import bind
from robustprune.deploy.vocabulary import ALIASES, DROPOUTS, FUNCTIONS, IN_PLACE, VIEWS

_VIEWS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten)
_VIEW_FUNCTIONS = (*(FUNCTIONS[name] for name in VIEWS), *DROPOUTS)
_VIEW_METHODS = ("view", "reshape", "contiguous", "expand", *VIEWS)


def check_in_place(graph: fx.Graph, model: nn.Module) -> None:
    """Refuse in-place operations that a Network, in which each step makes a new tensor, can't
    repeat.

    The computation stays the same only under three conditions: nothing reads the tensor that would
    have been overwritten, neither by its name nor through a view; that tensor is no part of the
    network itself, which would change the next call; and it has the dtype that the result would
    have.

    Raises:
        ValueError: there is such an operation; the message names the tensor.
    """
    mixed = len({t.dtype for t in _tensors(model) if t.is_floating_point()}) > 1
    for node in graph.nodes:
        if not _works_in_place(node, model):
            continue
        if mixed and any(isinstance(value, fx.Node) for value in node.args[1:]):
            raise ValueError(
                f"forward changes {node.args[0]!s} in place at {node.name!r} in a network of "
                "several dtypes, where that rounds in another way than out of place; write it "
                "out of place"
            )
        changed = node.args[0]
        while isinstance(changed, fx.Node):
            if changed.op == "get_attr":
                raise ValueError(
                    f"forward changes the network's own tensor {changed.target!r} in place at "
                    f"{node.name!r}, so that its answers depend on earlier calls"
                )
            if len(changed.users) > 1:
                raise ValueError(
                    f"forward changes {changed.name!r} in place at {node.name!r} while "
                    "something else reads it; use inplace=False there"
                )
            changed = changed.args[0] if _may_be_view(changed, model) else None


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _works_in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return node.op == "call_function" and (node.target in IN_PLACE or _asked_in_place(node))


def _asked_in_place(node: fx.Node) -> bool:
    name = "dropout" if node.target in DROPOUTS else ALIASES.get(node.target)
    return name is not None and bool(bind(name, node.args, node.kwargs).get("inplace"))


def _may_be_view(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return isinstance(module, _VIEWS) or bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        return node.target in _VIEW_METHODS or str(node.target).endswith("_")
    return node.op == "call_function" and (
        _is_selection(node)
        or node.target in _VIEW_FUNCTIONS
        or node.target in IN_PLACE
        or _asked_in_place(node)
    )


def _is_selection(node: fx.Node) -> bool:
    """Return whether the node is x[:, i], not a part of what a layer returns."""
    return node.target is operator.getitem and isinstance(node.args[1], tuple)
