"""Check whether a training step stayed finite, and find where it did not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from attacks.network import NotFinite
from robustprune.minmax.result import Objective


def finite(loss: Tensor, moving: Sequence[nn.Parameter], flag: Tensor | None = None) -> bool:
    """Return whether the loss and all gradients are finite. It reads one number from the device.

    Args:
        flag: another scalar that must be finite, checked together with them; None for none.
    """
    gradients = [p.grad for p in moving if p.grad is not None]
    if loss.is_cuda and gradients:  # all in a few kernels; on a CPU that is three times as slow
        sums = [norm.float() for norm in torch._foreach_norm(gradients, 1)]
    else:
        sums = [g.float().sum() for g in gradients]
    looked = [loss.detach().float(), *sums] + ([] if flag is None else [flag.float()])
    if bool(torch.isfinite(torch.stack(looked)).all()):
        return True
    each = (loss, *gradients) if flag is None else (loss, *gradients, flag)
    return all(bool(torch.isfinite(t).all()) for t in each)  # sums may overflow


def first_weight(model: nn.Module) -> str | None:
    """Return the name of the first weight or buffer that is not finite, or None. A buffer may hold
    −∞, as the mask of causal attention does; statistics that overflow have ∞ or NaN, too."""
    buffers = ((n, b.masked_fill(b == -torch.inf, 0.0)) for n, b in model.named_buffers())
    state: Iterable[tuple[str, Tensor]] = itertools.chain(model.named_parameters(), buffers)
    return next((f"weight {_plain(name)}" for name, t in state if not _is_finite(t)), None)


def first_gradient(model: nn.Module) -> str | None:
    """Name the gradient that became non-finite first, or None. The backward pass goes from output
    to input, so it is the last non-finite one in the order of the layers."""
    bad = [name for name, p in model.named_parameters() if not _is_finite(p.grad)]
    return f"the gradient of {_plain(bad[-1])}" if bad else None


def first_output(
    model: nn.Module,
    objective: Objective,
    x: Tensor,
    y: Tensor,
    epoch: float,
    *,
    ruled_out: bool = False,
) -> str | None:
    """Evaluate the objective again, with its attack, and name the first layer whose output is not
    finite; None if all outputs are finite this time.

    Args:
        ruled_out: whether −∞ is allowed as the logit of a class that the network excludes.
    """
    found: list[str] = []

    def look(name: str, module: nn.Module, output: object) -> None:
        if ruled_out and isinstance(output, Tensor):
            output = output.masked_fill(output == -torch.inf, 0.0)
        if not found and not _is_finite(output):
            found.append(f"the output of {_plain(name) or 'the model'} ({type(module).__name__})")

    hooks = [
        module.register_forward_hook(lambda m, _, output, name=name: look(name, m, output))
        for name, module in model.named_modules()
    ]
    try:
        with suppress(NotFinite):  # an attack that looks by itself
            objective(model, x, y, epoch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def culprit(
    model: nn.Module,
    objective: Objective,
    x: Tensor,
    y: Tensor,
    epoch: float,
    parts: Mapping[str, Tensor | None],
) -> str:
    """Say what became non-finite first in a step, its backward pass included.

    Args:
        parts: the summands of the loss, by name.
    """
    if not _is_finite(x):
        return "the batch of inputs"
    bad = [name for name, part in parts.items() if not _is_finite(part)]
    if not bad:
        return first_gradient(model) or "the gradient"
    return first_weight(model) or first_output(model, objective, x, y, epoch) or f"the {bad[0]}"


def culprit_of_attack(
    model: nn.Module, objective: Objective, x: Tensor, y: Tensor, epoch: float
) -> str | None:
    """Say what was not finite when an attack inside the objective raised NotFinite. None means
    that only the gradient with respect to the input can be the cause."""
    if not _is_finite(x):
        return "the batch of inputs"
    return first_weight(model) or first_output(model, objective, x, y, epoch, ruled_out=True)


def _is_finite(value: object) -> bool:
    if isinstance(value, tuple | list):  # a layer may return several tensors
        return all(_is_finite(part) for part in value)
    if isinstance(value, Mapping):
        return all(_is_finite(part) for part in value.values())
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())


def _plain(name: str) -> str:
    """Return a parameter's name without the parts that a parametrization adds."""
    return re.sub(r"parametrizations\.(\w+)\.(?:original\d*|\d+)", r"\1", name)
