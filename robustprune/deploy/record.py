"""From any traceable module to a `Network`: torch.fx follows forward, the vocabulary names it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F

from robustprune.deploy.copies import baked
from robustprune.deploy.network import Network, Ref, Step
from robustprune.deploy.vocabulary import (
    ALIASES,
    FUNCTIONS,
    IN_PLACE,
    METHODS,
    MODULE_NAMES,
    MODULES,
)

_IGNORED = ("inplace",)  # every step of a Network makes a new tensor
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d)
_VIEWS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten)
_VIEW_FUNCTIONS = (FUNCTIONS["flatten"], *_DROPOUTS)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


def record(model: nn.Module) -> Network:
    """A copy of `model` in eval mode as a `Network`, masks and other parametrizations baked in.

    The weights keep their names, so that masks for the model fit the network.

    Raises:
        ValueError: a forward method that tracing can't follow, a layer or function outside the
            vocabulary, more than one input or output, or a tensor changed in place while
            something else still reads it.
    """
    model = baked(model)
    if isinstance(model, Network):
        return model
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} can't be traced ({error}); its forward must not branch on "
            "values or shapes"
        ) from error
    _check_in_place(graph, model)
    recorder = _Recorder(model)
    for node in graph.nodes:
        recorder.add(node)
    return Network(recorder.needed_steps(), recorder.modules, recorder.tensors).eval()


class _Recorder:
    """Collects steps; `names` maps fx nodes to what stands for them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps: list[Step] = []
        self.modules: dict[str, nn.Module] = {}
        self.tensors: dict[str, Tensor] = {}
        self.same: dict[str, str] = {}
        self.batch_sizes: dict[str, str] = {}

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.steps:
                raise ValueError("the network takes more than one input; wrap it to take x alone")
            self.steps.append(Step(node.name, "input"))
        elif node.op == "get_attr":
            self._tensor(node)
        elif node.op == "call_module":
            self._module(node)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise ValueError("the network must return one tensor; wrap it to return the logits")
            self.steps.append(Step("output", "output", "", (self._argument(node.args[0]),)))
        else:
            self._function(node)

    def needed_steps(self) -> list[Step]:
        """The steps that lead to the output, the input among them in any case."""
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
        if type(module) in MODULES:
            raise ValueError(f"forward reads {path!r} of a layer instead of calling the layer")
        self.tensors[path] = getattr(module, leaf)
        self.steps.append(Step(node.name, "tensor", path))

    def _module(self, node: fx.Node) -> None:
        path = str(node.target)
        module = self.model.get_submodule(path)
        if type(module) not in MODULES:
            raise ValueError(
                f"layer {path!r} is a {type(module).__name__}, which can't be deployed; known "
                f"layers are {', '.join(sorted(MODULE_NAMES))}"
            )
        if getattr(module, "return_indices", False):
            raise ValueError(f"layer {path!r} returns indices beside its values")
        if isinstance(module, nn.AvgPool2d | nn.AvgPool3d) and module.divisor_override is not None:
            raise ValueError(f"layer {path!r} overrides its divisor, which can't be deployed")
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010  (no nn.Module declares it)
        self.modules[path] = module
        self.steps.append(self._call(node, "module", path))

    def _function(self, node: fx.Node) -> None:
        if self._is_batch_size(node) or self._is_no_op(node):
            return
        flat = self._flat_view(node)
        if flat is not None:
            self.steps.append(Step(node.name, "function", "flatten", (flat, 1)))
            return
        method = node.op == "call_method"
        name = METHODS.get(str(node.target)) if method else ALIASES.get(node.target)
        if name is None:
            called = node.target if isinstance(node.target, str) else node.target.__name__
            raise ValueError(
                f"forward calls {called!r}, which can't be deployed; known functions are "
                f"{', '.join(FUNCTIONS)}, and view(x.size(0), -1)"
            )
        if node.kwargs.get("return_indices"):
            raise ValueError(f"{node.name!r} returns indices beside its values")
        self.steps.append(self._call(node, "function", name))

    def _call(self, node: fx.Node, kind: Any, target: str) -> Step:
        kwargs = {k: self._argument(v) for k, v in node.kwargs.items() if k not in _IGNORED}
        return Step(node.name, kind, target, tuple(map(self._argument, node.args)), kwargs)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value.name in self.batch_sizes:
                raise ValueError(f"forward uses the size {value.name!r} in a way not known here")
            return Ref(self.same.get(value.name, value.name))
        if isinstance(value, (list, tuple)):
            return [self._argument(part) for part in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ValueError(f"forward passes a {type(value).__name__} as an argument: {value!r}")

    def _is_batch_size(self, node: fx.Node) -> bool:
        """x.size(0), x.shape and x.shape[0]: kept out of the steps, known by what they measure."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return False
        rest = tuple(node.args[1:])
        whole = (node.op, node.target) == ("call_method", "size") and not rest
        whole |= getattr(node.target, "__name__", "") == "getattr" and rest == ("shape",)
        first = (node.op, node.target) == ("call_method", "size") and rest == (0,)
        first |= (
            getattr(node.target, "__name__", "") == "getitem"
            and rest == (0,)
            and self.batch_sizes.get(source.name) == "whole"
        )
        if whole or first:
            self.batch_sizes[node.name] = "whole" if whole else "first"
        return whole or first

    def _is_no_op(self, node: fx.Node) -> bool:
        """Functional dropout, which does nothing in eval mode, and x.contiguous()."""
        dropout = node.target in _DROPOUTS
        if dropout and node.kwargs.get("training"):
            raise ValueError("forward drops out also in eval mode; deployed networks don't")
        if dropout or (node.op, node.target) == ("call_method", "contiguous"):
            self.same[node.name] = self._argument(node.args[0]).name
            return True
        return False

    def _flat_view(self, node: fx.Node) -> Ref | None:
        """x, if the node is x.view(x.size(0), -1) or the same as reshape: flatten(x, 1)."""
        if node.op != "call_method" or node.target not in ("view", "reshape"):
            return None
        source, *shape = node.args
        if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
            shape = list(shape[0])
        batch_first = isinstance(shape[0], fx.Node) and (
            self.batch_sizes.get(shape[0].name) == "first"
        )
        if not batch_first or shape[1:] != [-1]:
            raise ValueError(
                f"forward reshapes to {shape}, which fixes a size; write x.flatten(1) instead"
            )
        ref = self._argument(source)
        assert isinstance(ref, Ref)
        return ref


def _check_in_place(graph: fx.Graph, model: nn.Module) -> None:
    """Refuse in-place operations on tensors that something else reads.

    A Network makes a new tensor at each step. That is the same computation only if nobody looks
    at the tensor that would have been overwritten, under this name or as the source of a view.
    """
    for node in graph.nodes:
        if not _works_in_place(node, model):
            continue
        changed = node.args[0]
        while isinstance(changed, fx.Node):
            if len(changed.users) > 1:
                raise ValueError(
                    f"forward changes {changed.name!r} in place at {node.name!r} while "
                    "something else reads it; use inplace=False there"
                )
            changed = changed.args[0] if _may_be_view(changed, model) else None


def _works_in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    if node.op == "call_function":
        return node.target in IN_PLACE or bool(node.kwargs.get("inplace"))
    return False


def _may_be_view(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return isinstance(module, _VIEWS) or bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        return node.target in ("view", "reshape", "flatten", "contiguous") or str(
            node.target
        ).endswith("_")
    return node.op == "call_function" and (
        node.target in _VIEW_FUNCTIONS
        or node.target in IN_PLACE
        or bool(node.kwargs.get("inplace"))
    )
