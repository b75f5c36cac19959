"""Trace forward methods with torch.fx, and refuse those that change from call to call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from robustprune.deploy.encoder import Written, without_masks
from robustprune.deploy.vocabulary import MODULES


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if isinstance(m, Written):
            args, kwargs = without_masks(self.path_of_module(m), args, kwargs), {}
        return super().call_module(m, forward, args, kwargs)


def traced(model: nn.Module) -> fx.Graph:
    """Return the calls of forward in order. Refuse a forward that changes from call to call."""
    random = torch.get_rng_state()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # forward is code of the user and may raise anything
        said = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"{type(model).__name__} can't be traced ({said}); its forward must not branch on "
            "values or shapes"
        ) from error
    if not torch.equal(torch.get_rng_state(), random):
        torch.set_rng_state(random)
        raise ValueError(
            f"{type(model).__name__} draws random numbers in its forward, so that it gives another "
            "answer at each call; deployed networks don't"
        )
    for name, buffer in model.named_buffers():
        if name not in before or not _equal(buffer, before[name]):
            raise ValueError(
                f"forward changes the buffer {name!r}, so that answers may depend on earlier "
                "calls; deployed networks keep what they hold"
            )
    return graph


def _equal(one: Tensor, other: Tensor) -> bool:
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
