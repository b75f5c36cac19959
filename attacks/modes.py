"""Context managers for the state of a module while it is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from attacks.network import Model

MODES = ("eval", "train", "keep")


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Switch off requires_grad of all parameters and give each its own value back.

    A backward pass inside then computes input gradients only.  A plain callable has no
    parameters, and nothing is done.
    """
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in zip(parameters, before, strict=True):
            parameter.requires_grad_(flag)


@contextmanager
def _in_mode(model: Model, *, training: bool) -> Iterator[None]:
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    try:
        if isinstance(model, nn.Module):
            model.train(training)
        yield
    finally:
        # set the flag itself: module.train() would overwrite the children's
        for module, flag in zip(modules, before, strict=True):
            module.training = flag


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Set eval mode and give every submodule its own mode back, also after an exception."""
    with _in_mode(model, training=False):
        yield


@contextmanager
def attacking(model: Model, mode: str = "eval") -> Iterator[None]:
    """Freeze the parameters, set the mode, and allow gradients whatever the caller forbade.

    Args:
        mode: "eval", "train", or "keep" for the mode the module is in.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not known; choose one of {', '.join(MODES)}")
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        if mode == "keep":
            yield
        else:
            with _in_mode(model, training=mode == "train"):
                yield
