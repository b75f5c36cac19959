"""Trace the user's model by ``torch.fx`` without changing it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from attacks.network import logits_in
from robustprune.bounds.supported import standard_layer

ROOT = "model"  # the user's model inside the wrapper, in which every layer is a submodule


@contextmanager
def only_read(model: nn.Module) -> Iterator[None]:
    """Run the Python code of the modules, even after ``module.compile()``, and undo what they
    assign to themselves.

    Raises:
        ValueError: a forward method assigns a buffer.
    """
    modules = dict(model.named_modules())
    before = {name: (dict(vars(m)), dict(m._buffers)) for name, m in modules.items()}
    for module in modules.values():
        module._compiled_call_impl = None
    changed = []
    try:
        yield
    finally:
        for name, module in modules.items():
            attributes, buffers = before[name]
            changed += [
                f"{name}.{key}".lstrip(".")
                for key in buffers
                if module._buffers[key] is not buffers[key]
            ]
            module._buffers.clear()
            module._buffers.update(buffers)
            module.__dict__.clear()
            module.__dict__.update(attributes)
    if changed:
        raise ValueError(
            f"the forward assigns the buffer '{changed[0]}', so that the network changes from call "
            "to call; only one that stays the same can be certified"
        )


def exported(module: nn.Module) -> bool:
    return isinstance(module, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    )


class Root(nn.Module):
    """The model, with a forward that returns only the logits of its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        output = self.model(x)
        return output if isinstance(output, fx.Proxy) else logits_in(output)


class _Proxy(fx.Proxy):
    """A value that records ``z += …`` as an in-place operation; fx would record ``z = z + …``."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.itruediv, other)

    def __ipow__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.ipow, other)

    def __ifloordiv__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.ifloordiv, other)

    def __imod__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.imod, other)

    def _changed(self, function: Any, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})


class Tracer(fx.Tracer):
    # computing with a buffer during the trace would store its present value
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.casting = _casting()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if _casting() != self.casting:
            raise ValueError(
                "the forward turns autocast on or off, so that the network runs in another "
                "precision than its weights have; take that out to bound it"
            )
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if standard_layer(m) is not None:
            return True
        if parametrize.is_parametrized(m):
            raise ValueError(
                f"module '{shown(module_qualified_name)}' ({type(m).__name__}) is parametrized "
                "and no standard layer, so its weights can't be followed; turn them into plain "
                "ones first (robustprune.sparsity.bake)"
            )
        return super().is_leaf_module(m, module_qualified_name)


def _casting() -> list[bool]:
    """Return for the CPU and for CUDA whether autocast is on."""
    return [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]


def shown(target: str) -> str:
    """Return a module's name as the user knows it."""
    return target.removeprefix(ROOT).removeprefix(".")
