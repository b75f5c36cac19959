"""Call a network, or look inside it; everything else in this project does so through this module.

A network that is given to us may change its input in place, return more than its logits, or be
wrapped by ``torch.compile`` or ``DataParallel``. Attacks, measures, searches, training and exports
all call it through ``logits_of``, and look inside it through ``unwrapped``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

#: the attacked model: a module, or any callable that takes a batch; see ``logits_of``
Model = Callable[[Tensor], Any]


class NotFinite(ValueError):
    """Logits or gradients of the network are NaN, so that no attack on it is meaningful."""


def logits_of(model: Model, x: Tensor) -> Tensor:
    """Return the logits of ``model`` at ``x``; x itself is never changed by the network.

    The network receives a copy of x, so that a first ``ReLU(inplace=True)`` or an ``x -= mean``
    changes neither the caller's batch nor the point of an attack. The copy costs one write of the
    input.

    Args:
        model: returns the logits, an object or a dict with ``logits``, or a tuple that begins with
            the logits (as torchvision's Inception, whose second entry are auxiliary logits).
        x: (N, …).

    Raises:
        ValueError: the network returns something else, or fails because inputs and weights have
            different dtypes or devices.
    """
    try:
        return pick_logits(model(x.clone()))
    except RuntimeError as error:
        if (why := _misfit(model, x)) is None:
            raise
        raise ValueError(why) from error


def _misfit(model: Model, x: Tensor) -> str | None:
    """Return a message where inputs and weights differ in dtype or device, or None."""
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    weights = [weight for weight in weights if weight.is_floating_point()]
    dtypes, devices = {weight.dtype for weight in weights}, {weight.device for weight in weights}
    if dtypes and x.dtype not in dtypes:
        ours, theirs = (str(part.dtype).removeprefix("torch.") for part in (x, weights[0]))
        return (
            f"the inputs are {ours} and the network's weights {theirs}; give inputs as "
            f"x.to(torch.{theirs}), or turn the network with model.to(torch.{ours})"
        )
    if devices and x.device not in devices:
        return (
            f"the inputs are on {x.device} and the network's weights on {weights[0].device}; give "
            f"inputs as x.to({str(weights[0].device)!r})"
        )
    return None


def pick_logits(output: object) -> Tensor:
    """Return the logits in the output of a network; see ``logits_of``."""
    found = logits_in(output)
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


def logits_in(output: object) -> object:
    """Return what an output has in the place of logits, unchecked; see ``logits_of``."""
    if isinstance(output, Mapping):  # transformers' ModelOutput is a mapping, too
        return output.get("logits")
    if isinstance(output, tuple | list):
        return output[0] if output else None
    return output if isinstance(output, Tensor) else getattr(output, "logits", None)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``.

    It has the same parameters, under the names that its author gave them.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner  # the network in torch._dynamo's OptimizedModule
        else:
            return model


def check_no_hooks(model: nn.Module) -> None:
    """Refuse a network that computes something outside the ``forward`` methods of its modules.

    Code that reads a network instead of calling it (to bound it, to save it) follows ``forward``.
    Forward hooks, a ``forward`` set on an instance and a class's own ``__call__`` run in addition,
    so that the network that is read would differ from the one that is called.

    Raises:
        ValueError: there is such code; the message names the first module that has it.
    """
    for name, module in model.named_modules():
        found = beside_forward(module)
        if found is not None:
            where = f"module {name!r}" if name else "the network"
            raise ValueError(
                f"{where} ({type(module).__name__}) has {found}, which runs beside its class's "
                "forward and can't be followed; put what it does into a forward method, or take "
                "it off"
            )
    for kind in ("forward_hooks", "forward_pre_hooks"):
        if hooks := getattr(nn.modules.module, f"_global_{kind}"):
            raise ValueError(
                f"torch holds {_titled(next(iter(hooks.values())))}, a hook for all modules, which "
                "runs beside every forward and can't be followed; take it off first"
            )


def beside_forward(module: nn.Module) -> str | None:
    """Return what a call of the module runs besides the forward of its class, or None."""
    for hooks, kind in (
        (module._forward_pre_hooks, "forward pre-hook"),
        (module._forward_hooks, "forward hook"),
    ):
        if hooks:
            return f"the {kind} {_titled(next(iter(hooks.values())))}"
    if "forward" in vars(module):
        return "a forward of its own, set on the instance"
    # the __call__ that torch.fx gives its modules does the same as nn.Module's
    if type(module).__call__ is not nn.Module.__call__ and not isinstance(module, fx.GraphModule):
        return "a __call__ of its own class"
    return None


def _titled(hook: object) -> str:
    return repr(getattr(hook, "__qualname__", type(hook).__name__))
