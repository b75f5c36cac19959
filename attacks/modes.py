"""Context managers for the state of a module while it is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from attacks.geometry import brief
from attacks.network import Model

MODES = ("eval", "train", "keep")


def check_mode(mode: str) -> None:
    """Raise ValueError unless ``mode`` is one of ``MODES``."""
    if mode not in MODES:
        raise ValueError(f"mode={brief(mode)} is not known; choose one of {', '.join(MODES)}")


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Set requires_grad of all parameters to False, and restore it for each afterwards.

    A backward pass inside the context computes input gradients only. A plain callable has no
    parameters, and nothing is changed.
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
            _set_mode(model, training=training)
        yield
    finally:
        # set only the flag: module.train() would overwrite the modes of the children
        for module, flag in zip(modules, before, strict=True):
            module.training = flag


def _set_mode(model: nn.Module, *, training: bool) -> None:
    try:
        model.train(training)
    except NotImplementedError:  # a program of torch.export has a fixed mode
        if training:
            raise ValueError(
                "an exported program has one mode, that of its export; mode='train' cannot be set"
            ) from None


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Set eval mode, and restore the mode of every submodule afterwards, also after an exception.

    A program of ``torch.export`` stays in the mode of its export.
    """
    with _in_mode(model, training=False):
        yield


@contextmanager
def attacking(model: Model, mode: str = "eval") -> Iterator[None]:
    """Freeze the parameters, set the mode, and enable gradients whatever the caller's setting.

    Args:
        mode: "eval", "train", or "keep" for the present mode of the module.

    Raises:
        ValueError: the mode is unknown, or "train" for an exported program, or weights were made
            under ``torch.inference_mode``, through which no gradient flows.
    """
    check_mode(mode)
    if isinstance(model, nn.Module):
        weights = chain(model.parameters(), model.buffers())
        if any(weight.is_inference() for weight in weights):
            raise ValueError(
                "the model's weights were made under torch.inference_mode, and no gradient flows "
                "through such tensors; build or load the model outside of it"
            )
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        if mode == "keep":
            with _differentiable_rnns(model):
                yield
        else:
            with _in_mode(model, training=mode == "train"), _differentiable_rnns(model):
                yield


@contextmanager
def _differentiable_rnns(model: Model) -> Iterator[None]:
    """Switch cuDNN off where it cannot differentiate: an RNN in eval mode on a GPU."""
    if not _refused_by_cudnn(model):
        yield
        return
    before = torch.backends.cudnn.enabled
    try:
        torch.backends.cudnn.enabled = False
        yield
    finally:
        torch.backends.cudnn.enabled = before


def _refused_by_cudnn(model: Model) -> bool:
    return isinstance(model, nn.Module) and any(
        isinstance(module, nn.RNNBase) and not module.training and _on_gpu(module)
        for module in model.modules()
    )


def _on_gpu(module: nn.Module) -> bool:
    return any(weight.is_cuda for weight in module.parameters())
