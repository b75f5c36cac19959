"""Compute the inputs of a network's last linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.selection.pool import batches


@torch.no_grad()
def last_linear(model: nn.Module, x: Tensor) -> str:
    """Return the name of the `nn.Linear` that is called last when the model runs on x (N, ...).

    Raises:
        ValueError: the model calls no `nn.Linear`.
    """
    called: list[str] = []
    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: called.append(name))
        for name, module in linears
    ]
    try:
        with evaluating(model):
            logits_of(model, x[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise ValueError(
            f"{type(model).__name__} calls no nn.Linear, so it has no penultimate features; end it "
            "with a linear layer"
        )
    return called[-1]


@torch.no_grad()
def penultimate_features(model: nn.Module, x: Tensor, *, batch_size: int = 256) -> Tensor:
    """Return the input of the last linear layer in eval mode: (N, ...) -> (N, F).

    Other layers may follow that layer. Weights, mode and hooks of the model do not change.

    Raises:
        ValueError: the model calls no `nn.Linear`.
    """
    layer = model.get_submodule(last_linear(model, x))
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda _module, args: seen.append(args[0].flatten(1).clone())  # the layer may change it
    )
    parts = []
    try:
        with evaluating(model):
            for (batch,) in batches(batch_size, x):
                logits_of(model, batch)
                parts.append(seen[-1])
                seen.clear()
    finally:
        handle.remove()
    return torch.cat(parts)
