"""Turn an ``nn.Module`` into a ``Program`` by means of ``torch.fx``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from attacks import evaluating
from attacks.network import check_no_hooks, unwrapped
from robustprune.bounds.inplace import NOTHING, Effect, Memory
from robustprune.bounds.precision import Precision
from robustprune.bounds.program import Program, Value
from robustprune.bounds.supported import (
    FUNCTIONS,
    MODULES,
    SUPPORTED,
    function_name,
    standard_layer,
)
from robustprune.bounds.tensors import Unsupported
from robustprune.bounds.tracer import Root, Tracer, exported, only_read, shown


@dataclass(frozen=True)
class BoundGraph:
    """A traced model. All functions for bounds accept it in place of the model.

    The trace records the operations of the model and their order, in eval mode. Weights, masks and
    buffers are read from the model at each use, so the trace stays valid while they change.
    """

    model: nn.Module
    root: nn.Module = field(repr=False)
    graph: fx.Graph = field(repr=False)

    def program(
        self,
        sample: Tensor,
        *,
        batch_statistics: bool = False,
        precision: Precision | None = None,
    ) -> Program:
        """Return the operations with the present weights, for examples like those of ``sample``.

        Args:
            sample: (M, …), in the dtype in which bounds are computed.
            batch_statistics: whether batch norms in train mode use the statistics of ``sample``.
            precision: the precision of the network, for certificates; None in training.

        Raises:
            ValueError: an operation has no bounds (the message names it and its place), or logits
                are not (M, C) with C ≥ 2.
        """
        program = Program.start(sample, batch_statistics=batch_statistics, precision=precision)
        env: dict[fx.Node, Any] = {}
        memory = Memory()
        for node in self.graph.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
            if node.op == "placeholder":
                env[node] = program.input
                memory.note(node, env, NOTHING)
            elif node.op == "get_attr":
                env[node] = self._constant(node.target)
                memory.note(node, env, NOTHING)
            elif node.op == "output":
                return _finished(program, args[0])
            else:
                self._operation(program, node, args, kwargs, env, memory)
        raise AssertionError("a graph ends with its output")

    def _operation(
        self,
        program: Program,
        node: fx.Node,
        args: Any,
        kwargs: Any,
        env: dict[fx.Node, Any],
        memory: Memory,
    ) -> None:
        """Store the value of an operation in ``env``."""
        if node.op == "call_module":
            assert isinstance(node.target, str)
            module = self.root.get_submodule(node.target)
            kind = standard_layer(module)
            what = f"{type(module).__name__} (module '{shown(node.target)}')"
            handler: Any = None if kind is None else MODULES[kind]
            constant = False
            args = (module, *args)
            effect = Effect.of_layer(module)
        else:
            name = function_name(node.target)
            what = f"'{name}' (in {_surroundings(node)})"
            constant = not any(isinstance(a, Value) for a in _leaves((args, kwargs)))
            handler = _evaluator(node) if constant else FUNCTIONS.get(name)
            effect = Effect.of_call(name, args, kwargs)
        if handler is None:
            raise ValueError(f"no bounds for {what}; supported are {SUPPORTED}")
        try:
            if constant and effect.changes:
                raise Unsupported("it changes a constant in place; compute a new one")
            kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
            env[node] = handler(program, *args, **kwargs)
            memory.note(node, env, effect)
        except (Unsupported, TypeError, RuntimeError, LookupError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"no bounds for this use of {what}: {reason}") from error

    def _constant(self, target: str) -> Any:
        """Return a constant unchanged, because the network combines constants in its own dtype."""
        value: Any = self.root
        for part in target.split("."):
            value = getattr(value, part)
        return value


def trace(model: nn.Module | BoundGraph) -> BoundGraph:
    """Trace a model once that is bounded often. A ``BoundGraph`` is returned unchanged.

    Raises:
        ValueError: it is no module, its Python code does not exist any more, hooks or other code
            run beside ``forward``, the control flow depends on the input, or a parametrized module
            is no standard layer.
    """
    if isinstance(model, BoundGraph):
        return model
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"bounds need an nn.Module whose layers can be read, got {type(model).__name__}"
        )
    model = unwrapped(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or exported(module):
            where = f"module '{name}'" if name else "the model"
            raise ValueError(
                f"{where} ({type(module).__name__}) is compiled code without readable layers; pass "
                "the nn.Module that it was scripted, traced or exported from"
            )
    check_no_hooks(model)
    root = Root(model)
    try:
        with evaluating(model), only_read(model):
            graph = Tracer().trace(root)
    except Exception as error:  # the user's forward may raise anything when it gets no real tensor
        if isinstance(error, ValueError) and not isinstance(error, fx.proxy.TraceError):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"cannot trace {type(model).__name__}: {reason}; its forward must do the same "
            "operations whatever the input"
        ) from error
    return BoundGraph(model, root, graph)


def _finished(program: Program, logits: Any) -> Program:
    if not isinstance(logits, Value):
        raise ValueError(
            "the model returned no logits that depend on its input; let it return a tensor of "
            "shape (N, C), a tuple that begins with one, or an object or dict with 'logits'"
        )
    if logits.sample.dim() != 2 or logits.sample.shape[1] < 2:
        raise ValueError(
            f"the model returned shape {tuple(logits.sample.shape)} for {len(program.sample)} "
            "examples; bounds need logits of shape (N, C) with C ≥ 2"
        )
    program.output, program.logits = logits.node, logits.sample
    return program


def _evaluator(node: fx.Node) -> Any:
    """Return a function that computes a constant from constants."""
    target: Any = node.target
    if node.op == "call_method":
        return lambda program, own, *args, **kwargs: getattr(own, target)(*args, **kwargs)
    return lambda program, *args, **kwargs: target(*args, **kwargs)


def _leaves(value: Any) -> list[Any]:
    """Return the items of nested tuples, lists and dictionaries; a Value is one item."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and not isinstance(value, Value):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _surroundings(node: fx.Node) -> str:
    """Name the innermost module whose forward calls the function."""
    stack = node.meta.get("nn_module_stack") or {}
    name = shown(next(reversed(stack))) if stack else ""
    return f"module '{name}'" if name else "the model's forward"
