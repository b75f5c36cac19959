"""Rounded weights and activations in torch, through which gradients pass as if nothing was rounded.

A file of `export_int8` has no gradient, and the gradient of rounding is zero almost everywhere. An
attack on a quantised network follows the gradient of a copy made here instead, and the quantised
network decides on its success.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attacks.network import logits_of
from attacks.rounding import widened
from robustprune.deploy.copies import baked

#: numbers of bits of a weight
BITS = range(2, 9)

#: layers whose weights and inputs int8 files hold in 8 bits
_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def round_weights(model: nn.Module, bits: int = 8) -> nn.Module:
    """Copy a network in eval mode with few bits a weight of its linear and convolution layers.

    w ≈ s · c with whole numbers |c| ≤ 2^(bits − 1) − 1, and s for each output channel so that its
    largest |w| is the largest |c|. With 8 bits these are the weights of `export_int8`. Zeros stay
    zeros, and biases and everything else stay as they are; an embedding that shares its weight with
    a linear layer is rounded with it.

    Args:
        model: with or without masks, which are baked in.
        bits: from 2 to 8.

    Raises:
        ValueError: `bits` is out of range, weights are NaN or infinite, or the network cannot be
            copied.
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or bits not in BITS:
        raise ValueError(f"bits={bits!r} must be a whole number from 2 to 8")
    copy, largest = baked(model), 2 ** (bits - 1) - 1
    for layer in _layers(copy):
        weight = layer.get_parameter("weight")
        channel = 1 if isinstance(layer, _TRANSPOSED) else 0
        others = [dim for dim in range(weight.dim()) if dim != channel]
        values = widened(weight)  # in half precision the step of small weights would be 0
        step = values.abs().amax(others, keepdim=True) / largest
        if not bool(step.isfinite().all()):
            raise ValueError(
                f"a layer {layer} has weights that are NaN or infinite, which have no step; repair "
                "the network"
            )
        step = torch.where(step > 0, step, 1.0)  # a channel of zeros
        weight.copy_((values / step).round() * step)
    return copy


@torch.no_grad()
def straight_through(model: nn.Module, calibration: Tensor) -> nn.Module:
    """Copy a network as `export_int8` quantises it, with a gradient that skips the rounding.

    Weights are those of `round_weights` at 8 bits. The input of each linear and convolution layer
    becomes s · (clamp(⌊x / s⌉ + z, −128, 127) − z) with the s and z of the file, from the range of
    that input on the calibration examples. The gradient is that of the identity (Bengio et al.
    2013, arXiv 1308.3432), also where the clamp acts, so that saturated values hide nothing
    (BPDA, Athalye et al. 2018, arXiv 1802.00420). Sums and logits, which the file rounds as well,
    stay as they are. So the copy is near the file but not equal to it: let the file decide whether
    an attack succeeded.

    Args:
        calibration: (N, ...), the examples that were given to `export_int8`.

    Raises:
        ValueError: there are no calibration examples, they or what a layer gets are NaN or
            infinite, no layer is called on them, or the network cannot be copied.
    """
    if len(calibration) == 0:
        raise ValueError("calibration holds no example; give those of export_int8")
    ranges: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def look(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        low, high = (args[0] if args else named["input"]).aminmax()
        if not bool(low.isfinite() & high.isfinite()):
            raise ValueError(
                f"on the calibration examples {names[layer] or 'the network'} gets values from "
                f"{float(low)} to {float(high)}, which have no range; give finite examples"
            )
        before = ranges.get(layer, (low, high))
        ranges[layer] = torch.minimum(before[0], low), torch.maximum(before[1], high)

    copy = round_weights(model)
    plain = baked(model)
    names = {layer: name for name, layer in plain.named_modules()}
    for layer in _layers(plain):
        layer.register_forward_pre_hook(look, with_kwargs=True)
    logits_of(plain, calibration)
    if not ranges:
        raise ValueError("the network calls no linear or convolution layer that could be quantised")
    for layer, (low, high) in ranges.items():
        step = (high.clamp(min=0) - low.clamp(max=0)) / 255
        step = torch.where(step > 0, step, 1.0)
        zero = (-128 - low.clamp(max=0) / step).round()
        rounding = _RoundInput(step, zero)
        copy.get_submodule(names[layer]).register_forward_pre_hook(rounding, with_kwargs=True)
    return copy


def _layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _LAYERS)]


class _RoundInput:
    """A forward pre-hook that rounds the first input of a layer."""

    def __init__(self, step: Tensor, zero: Tensor) -> None:
        self.step, self.zero = step, zero

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._rounded(args[0]), *args[1:]), named
        return args, {**named, "input": self._rounded(named["input"])}

    def _rounded(self, x: Tensor) -> Tensor:
        found: Tensor = _Rounded.apply(x, self.step, self.zero)
        return found


class _Rounded(torch.autograd.Function):
    """Round to int8 and back; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: Tensor) -> Tensor:
        codes = ((x / step).round() + zero).clamp(-128, 127)
        return (codes - zero) * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None
