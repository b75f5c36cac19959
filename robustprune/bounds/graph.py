"""From an ``nn.Module`` to a ``Program``, by way of ``torch.fx``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from attacks import evaluating
from robustprune.bounds.program import Program, Value
from robustprune.bounds.supported import (
    FUNCTIONS,
    MODULES,
    SUPPORTED,
    function_name,
    standard_layer,
)
from robustprune.bounds.tensors import Unsupported

ROOT = "0"  # the user's model inside the wrapper that makes every layer a submodule


@dataclass(frozen=True)
class BoundGraph:
    """A traced model; wherever bounds take a model they take this too.

    The trace holds which operations the model does in which order, in eval mode.  Weights, masks
    and buffers are read from the model each time, so it stays valid while they change.
    """

    model: nn.Module
    root: nn.Module = field(repr=False)
    graph: fx.Graph = field(repr=False)

    def program(self, sample: Tensor, *, batch_statistics: bool = False) -> Program:
        """The operations with the weights of this moment, for examples like those of ``sample``.

        Args:
            sample: (M, …), in the dtype that bounds are computed in.
            batch_statistics: batch norms in train mode take the statistics of ``sample``.

        Raises:
            ValueError: an operation without bounds, by name and place, or logits that are not
                (M, C) with C ≥ 2.
        """
        program = Program.start(sample, batch_statistics=batch_statistics)
        env: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
            if node.op == "placeholder":
                # further arguments keep their defaults
                env[node] = args[0] if env else program.input
            elif node.op == "get_attr":
                env[node] = self._constant(node.target, program)
            elif node.op == "output":
                return _finished(program, args[0])
            else:
                env[node] = self._operation(program, node, args, kwargs)
        raise AssertionError("a graph ends with its output")

    def _operation(self, program: Program, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module":
            assert isinstance(node.target, str)
            module = self.root.get_submodule(node.target)
            kind = standard_layer(module)
            what = f"{type(module).__name__} (module '{_shown(node.target)}')"
            handler: Any = None if kind is None else MODULES[kind]
            args = (module, *args)
        else:
            name = function_name(node.target)
            if not any(isinstance(a, Value) for a in _leaves((args, kwargs))):
                return _evaluate(node, args, kwargs)
            what = f"'{name}' (in {_surroundings(node)})"
            handler = FUNCTIONS.get(name)
        if handler is None:
            raise ValueError(f"no bounds for {what}; supported are {SUPPORTED}")
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        try:
            return handler(program, *args, **kwargs)
        except (Unsupported, TypeError) as error:
            raise ValueError(f"no bounds for this use of {what}: {error}") from error

    def _constant(self, target: str, program: Program) -> Any:
        value: Any = self.root
        for part in target.split("."):
            value = getattr(value, part)
        if isinstance(value, Tensor) and value.is_floating_point():
            return program.cast(value)
        return value


def trace(model: nn.Module | BoundGraph) -> BoundGraph:
    """Trace once what is bounded often; a ``BoundGraph`` is returned as it is.

    Raises:
        ValueError: no module, control flow that depends on the input, or a parametrized module
            that is no standard layer.
    """
    if isinstance(model, BoundGraph):
        return model
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"bounds need an nn.Module whose layers can be read, got {type(model).__name__}"
        )
    root = nn.Sequential(model)
    try:
        with evaluating(model):
            graph = _Tracer().trace(root)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(
            f"cannot trace {type(model).__name__}: {error}; its forward must do the same "
            "operations whatever the input"
        ) from error
    return BoundGraph(model, root, graph)


class _Tracer(fx.Tracer):
    # computing with a buffer during the trace would freeze its value in
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if standard_layer(m) is not None:
            return True
        if parametrize.is_parametrized(m):
            raise ValueError(
                f"module '{_shown(module_qualified_name)}' ({type(m).__name__}) is parametrized "
                "and no standard layer, so its weights can't be followed; turn them into plain "
                "ones first (robustprune.sparsity.bake)"
            )
        return super().is_leaf_module(m, module_qualified_name)


def _finished(program: Program, logits: Any) -> Program:
    if not isinstance(logits, Value):
        raise ValueError("the model's output is no single tensor that depends on its input")
    if logits.sample.dim() != 2 or logits.sample.shape[1] < 2:
        raise ValueError(
            f"the model returned shape {tuple(logits.sample.shape)} for {len(program.sample)} "
            "examples; bounds need logits of shape (N, C) with C ≥ 2"
        )
    program.output, program.logits = logits.node, logits.sample
    return program


def _evaluate(node: fx.Node, args: Any, kwargs: Any) -> Any:
    if node.op == "call_method":
        assert isinstance(node.target, str)
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _leaves(value: Any) -> list[Any]:
    """What tuples, lists and dictionaries hold; a Value counts as one."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and not isinstance(value, Value):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _shown(target: str) -> str:
    """A module's name as the user knows it."""
    return target.removeprefix(ROOT).removeprefix(".")


def _surroundings(node: fx.Node) -> str:
    """The innermost module whose forward calls the function."""
    stack = node.meta.get("nn_module_stack") or {}
    name = _shown(next(reversed(stack))) if stack else ""
    return f"module '{name}'" if name else "the model's forward"
