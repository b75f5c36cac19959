"""Turn a traceable module into a `Network`: torch.fx traces forward, the vocabulary names the
calls."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from attacks.network import check_no_hooks, logits_in
from robustprune.deploy.attention import attended, split
from robustprune.deploy.calls import bind, leaves_first_dimension
from robustprune.deploy.copies import baked
from robustprune.deploy.encoder import written_out
from robustprune.deploy.in_place import check_in_place
from robustprune.deploy.network import Network, Ref, Step
from robustprune.deploy.tracing import traced
from robustprune.deploy.vocabulary import (
    ALIASES,
    DROPOUTS,
    FUNCTIONS,
    METHODS,
    MODULE_NAMES,
    MODULES,
    rebuilt,
)


def record(model: nn.Module) -> Network:
    """Copy `model` in eval mode as a `Network`, with masks and other parametrizations baked in.

    The weights keep their names, so that masks for the model fit the network. If a model returns
    more than its logits (see `attacks.logits_of`), the network returns only the logits.

    Raises:
        ValueError: tracing can't follow the forward method; a layer, function or argument is
            outside the vocabulary; hooks or other code run beside a forward method; there is more
            than one input; a tensor is changed in place while something else still reads it; or the
            network draws random numbers or changes itself when it is called.
    """
    model = baked(model)
    check_no_hooks(model)
    if isinstance(model, Network):
        steps, tensors = list(model.steps), model.own_tensors()
        modules = {
            step.target: model.get_submodule(step.target) for step in steps if step.kind == "module"
        }
    else:
        model = written_out(model)
        recorder = _Recorder(model)
        graph = traced(model)
        check_in_place(graph, model)
        for node in graph.nodes:
            recorder.add(node)
        steps, modules, tensors = recorder.needed_steps(), recorder.modules, recorder.tensors
    layers = {path: rebuilt(path, module) for path, module in modules.items()}
    return Network(steps, layers, tensors).eval()


class _Recorder:
    """Collect the steps of a network from the nodes of its fx graph."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps: list[Step] = []
        self.modules: dict[str, nn.Module] = {}
        self.tensors: dict[str, Tensor] = {}
        self.same: dict[str, str] = {}
        self.batch_sizes: dict[str, str] = {}  # node -> "whole" shape or "first" size
        self.measured: dict[str, fx.Node] = {}  # node of a size -> the node that was measured
        self.attention: dict[str, str] = {}  # node of self-attention -> its layer
        self.weights: dict[str, str] = {}  # node of its second result -> the layer
        self.batch_first: set[str] = set()  # results whose first dimension is the batch

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.steps:
                raise ValueError("the network takes more than one input; wrap it to take x alone")
            self.steps.append(Step(node.name, "input"))
            self.batch_first.add(node.name)
        elif node.op == "get_attr":
            self._tensor(node)
        elif node.op == "call_module":
            self._module(node)
        elif node.op == "output":
            self.steps.append(Step("output", "output", "", (self._argument(_logits(node)),)))
        else:
            self._function(node)

    def needed_steps(self) -> list[Step]:
        """Return the steps that lead to the output, and in any case the input."""
        needed = {self.steps[-1].name, self.steps[0].name}
        for step in reversed(self.steps):
            if step.name in needed:
                needed.update(step.refs)
        steps = [step for step in self.steps if step.name in needed]
        used = {step.target for step in steps}
        self.modules = {path: m for path, m in self.modules.items() if path in used}
        self.tensors = {path: t for path, t in self.tensors.items() if path in used}
        return steps

    def _tensor(self, node: fx.Node) -> None:
        path = str(node.target)
        owner, _, leaf = path.rpartition(".")
        module = self.model.get_submodule(owner)
        if type(module) in (*MODULES, nn.MultiheadAttention):
            raise ValueError(f"forward reads {path!r} of a layer instead of calling the layer")
        self.tensors[path] = getattr(module, leaf)
        self.steps.append(Step(node.name, "tensor", path))

    def _module(self, node: fx.Node) -> None:
        path = str(node.target)
        module = self.model.get_submodule(path)
        if type(module) is nn.MultiheadAttention:
            self._attention(node, path, module)
            return
        if type(module) not in MODULES:
            raise ValueError(
                f"layer {path!r} is a {type(module).__name__}, which can't be deployed; known "
                f"layers are {', '.join(sorted(MODULE_NAMES))}"
            )
        if getattr(module, "return_indices", False):
            raise ValueError(f"layer {path!r} returns indices beside its values")
        if isinstance(module, nn.AvgPool2d | nn.AvgPool3d) and module.divisor_override is not None:
            raise ValueError(f"layer {path!r} overrides its divisor, which can't be deployed")
        self.modules[path] = module
        step = self._call(node, "module", path)
        self.steps.append(step)
        if not isinstance(module, nn.Flatten) or module.start_dim > 0:
            self._keeps_batch(node.name, step)

    def _attention(self, node: fx.Node, path: str, module: nn.MultiheadAttention) -> None:
        """Note self-attention as two layers, its heads and its output projection."""
        step = self._call(node, "module", path)
        source = attended(path, step.args, step.kwargs)
        heads, projection = Ref(f"{node.name}.heads"), f"{path}.out_proj"
        self.modules[path], self.modules[projection] = split(path, module)
        for name, target, taken in ((heads.name, path, source), (node.name, projection, heads)):
            self.steps.append(Step(name, "module", target, (taken,)))
            self._keeps_batch(name, self.steps[-1])
        self.attention[node.name] = path

    def _is_part_of_attention(self, node: fx.Node) -> bool:
        """Note the first result of attention, which is its output, and the second, its weights."""
        source = node.args[0] if node.target is operator.getitem else None
        if not isinstance(source, fx.Node) or source.name not in self.attention:
            return False
        if node.args[1] == 0:
            self.same[node.name] = source.name
        else:
            self.weights[node.name] = self.attention[source.name]
        return True

    def _function(self, node: fx.Node) -> None:
        if self._is_batch_size(node) or self._is_no_op(node) or self._is_part_of_attention(node):
            return
        known = self._flat_view(node) or self._expanded(node) or self._selected(node)
        if known is not None:
            self.steps.append(known)
            self._keeps_batch(node.name, known)
            return
        method = node.op == "call_method"
        name = METHODS.get(str(node.target)) if method else ALIASES.get(node.target)
        if name is None:
            called = node.target if isinstance(node.target, str) else node.target.__name__
            raise ValueError(
                f"forward calls {called!r}, which can't be deployed; known functions are "
                f"{', '.join(FUNCTIONS)}, and view(x.size(0), -1)"
            )
        number = node.args and not isinstance(node.args[0], fx.Node)
        if node.target is torch.div and number and not node.kwargs.get("rounding_mode"):
            raise ValueError(
                f"forward calls torch.div on the number {node.args[0]!r}, which rounds otherwise "
                "than a division does; write it with /"
            )
        step = self._call(node, "function", name)
        self.steps.append(step)
        if leaves_first_dimension(step.target, step.args, step.kwargs):
            self._keeps_batch(node.name, step)

    def _call(self, node: fx.Node, kind: Any, target: str) -> Step:
        kwargs = {k: self._argument(v) for k, v in node.kwargs.items()}
        return Step(node.name, kind, target, tuple(map(self._argument, node.args)), kwargs)

    def _keeps_batch(self, name: str, step: Step) -> None:
        """Note that a result has as many rows as the input, if this holds for all that it is made
        of."""
        if all(ref in self.batch_first or self._broadcasts(ref) for ref in step.refs):
            self.batch_first.add(name)

    def _broadcasts(self, ref: str) -> bool:
        """Return whether this is a tensor of the network that has no rows of its own."""
        step = next(step for step in self.steps if step.name == ref)
        shape = self.tensors[step.target].shape if step.kind == "tensor" else (0, 0)
        return len(shape) < 2 or shape[0] == 1

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value.name in self.batch_sizes:
                raise ValueError(f"forward uses the size {value.name!r} in a way not known here")
            if value.name in self.weights:
                raise ValueError(
                    f"forward uses the attention weights of layer {self.weights[value.name]!r}, "
                    "which a deployed network doesn't return"
                )
            return Ref(self.same.get(value.name, value.name))
        if isinstance(value, (list, tuple)):
            return [self._argument(part) for part in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ValueError(f"forward passes a {type(value).__name__} as an argument: {value!r}")

    def _is_batch_size(self, node: fx.Node) -> bool:
        """Note x.size(0), x.shape and x.shape[0], which are no steps, with the tensor that they
        measure."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return False
        rest = (*node.args[1:], *node.kwargs.values())
        whole = (node.op, node.target) == ("call_method", "size") and not rest
        whole |= getattr(node.target, "__name__", "") == "getattr" and rest == ("shape",)
        of_shape = self.batch_sizes.get(source.name) == "whole"
        first = (node.op, node.target) == ("call_method", "size") and rest == (0,)
        first |= getattr(node.target, "__name__", "") == "getitem" and rest == (0,) and of_shape
        if whole or first:
            self.batch_sizes[node.name] = "whole" if whole else "first"
            self.measured[node.name] = self.measured[source.name] if of_shape else source
        return whole or first

    def _is_no_op(self, node: fx.Node) -> bool:
        """Skip x.contiguous() and functional dropout, which do nothing in eval mode."""
        dropout = node.op == "call_function" and node.target in DROPOUTS
        if not dropout and (node.op, node.target) != ("call_method", "contiguous"):
            return False
        source = bind("dropout", node.args, node.kwargs) if dropout else {"input": node.args[0]}
        if dropout and source.get("training", True):
            raise ValueError("forward drops out also in eval mode; deployed networks don't")
        self.same[node.name] = self._argument(source["input"]).name
        return True

    def _flat_view(self, node: fx.Node) -> Step | None:
        """Return x.view(x.size(0), -1), or the same with reshape, as flatten(x, 1)."""
        if node.op != "call_method" or node.target not in ("view", "reshape"):
            return None
        source, *shape = (*node.args, *node.kwargs.values())
        if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
            shape = list(shape[0])
        size: Any = shape[0] if shape else None
        batch_first = isinstance(size, fx.Node) and self.batch_sizes.get(size.name) == "first"
        ref = self._argument(source)
        assert isinstance(ref, Ref)
        if batch_first and shape[1:] == [-1]:
            measured = self._argument(self.measured[size.name]).name
            if measured == ref.name or {measured, ref.name} <= self.batch_first:
                return Step(node.name, "function", "flatten", (ref, 1))
        raise ValueError(
            f"forward reshapes to {shape}, which fixes a size; write x.flatten(1) instead"
        )

    def _expanded(self, node: fx.Node) -> Step | None:
        """Return tensor.expand(x.size(0), -1, ...), as of a class token, as a step."""
        if (node.op, node.target) != ("call_method", "expand"):
            return None
        source, *shape = node.args
        size: Any = shape[0] if shape else None
        first = isinstance(size, fx.Node) and self.batch_sizes.get(size.name) == "first"
        assert isinstance(source, fx.Node)
        own = self.tensors.get(str(source.target)) if source.op == "get_attr" else None
        if own is not None and own.ndim < len(shape):
            few = f"{source.target!r}, of {own.ndim} dimensions, to {len(shape)}"
            raise ValueError(f"forward expands {few}; give it a first dimension of 1")
        if first and set(shape[1:]) == {-1}:
            measured = self._argument(self.measured[size.name])
            return Step(node.name, "function", "expand_batch", (self._argument(source), measured))
        raise ValueError("forward expands a tensor; write tensor.expand(x.size(0), -1, ...)")

    def _selected(self, node: fx.Node) -> Step | None:
        """Return x[:, i], x[:, :, i] and so on, i a number, as a step."""
        index = node.args[1] if node.target is operator.getitem else None
        if not isinstance(index, tuple) or len(index) < 2 or type(index[-1]) is not int:
            return None
        if any(part != slice(None) for part in index[:-1]):
            return None
        args = (self._argument(node.args[0]), len(index) - 1, index[-1])
        return Step(node.name, "function", "select", args)


def _logits(output: fx.Node) -> fx.Node:
    """Return the node of the logits in what forward returns, as in `attacks.pick_logits`."""
    returned: Any = output.args[0]
    found = returned if isinstance(returned, fx.Node) else logits_in(returned)
    if not isinstance(found, fx.Node):
        raise ValueError(
            "the network must return one tensor, or logits first in a tuple or by that name in a "
            "dict; wrap it to return the logits"
        )
    return found
