"""The one place where somebody's network is called.

A network that is handed to us may work in place on its input, return more than its logits, or be
wrapped by ``torch.compile`` or ``DataParallel``.  Attacks, measures, searches, training and exports
all call it through ``logits_of``, and look inside it through ``unwrapped``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

#: what is attacked: a module, or any callable that takes a batch; see ``logits_of``
Model = Callable[[Tensor], Any]


class NotFinite(ValueError):
    """Logits or gradients of the network are NaN, so that no attack on it means anything."""


def logits_of(model: Model, x: Tensor) -> Tensor:
    """The logits of ``model`` at ``x``, which stays as it is whatever the network does to it.

    The network gets a copy of x, so that a first ``ReLU(inplace=True)`` or an ``x -= mean`` changes
    neither the caller's batch nor the point of an attack.  The copy costs one write of the input.

    Args:
        model: returns the logits, an object or a dict with ``logits``, or a tuple whose first entry
            they are (an auxiliary head comes second, as in torchvision's Inception).
        x: (N, …).

    Raises:
        ValueError: the network returns something else.
    """
    return pick_logits(model(x.clone()))


def pick_logits(output: object) -> Tensor:
    """The logits in what a network returned; see ``logits_of``."""
    found: object = output
    if isinstance(output, Mapping):  # transformers' ModelOutput is one, too
        found = output.get("logits")
    elif isinstance(output, tuple | list):
        found = output[0] if output else None
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    held = ""
    if isinstance(output, Mapping):
        held = f" with the keys {', '.join(map(repr, list(output)[:8])) or '(none)'}"
    elif isinstance(output, tuple | list):
        held = f" of {', '.join(type(part).__name__ for part in output[:8]) or 'nothing'}"
    raise ValueError(
        f"the model returned a {type(output).__name__}{held}, in which there are no logits; let it "
        "return a tensor of shape (N, C), a tuple that begins with one, or an object or dict with "
        "'logits'"
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``: the
    same parameters by the names that its author gave them."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner  # torch._dynamo's OptimizedModule
        else:
            return model
