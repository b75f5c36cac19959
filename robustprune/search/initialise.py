"""Random weights θ for scratch tickets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity import group_weight

InitName = Literal[
    "signed_kaiming_constant",
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_constant",
]
INITS: tuple[InitName, ...] = get_args(InitName)


@torch.no_grad()
def initialise(
    layers: Mapping[str, nn.Module],
    init: InitName = "signed_kaiming_constant",
    *,
    generator: torch.Generator,
    density: float = 1.0,
    bias_scale: float = 0.0,
) -> None:
    """Draw the weights of `layers` anew, in place.

    With g = √2 (ReLU), n = fan in and m = fan out of a layer:

    | init                    | weight                   |
    | ----------------------- | ------------------------ |
    | signed_kaiming_constant | ± g/√n                   |
    | kaiming_normal          | N(0, g²/n)               |
    | kaiming_uniform         | U(−g√(3/n), g√(3/n))     |
    | xavier_normal           | N(0, 2/(n+m))            |
    | xavier_constant         | ± √(2/(n+m))             |

    The signed constant is the best of them for robust scratch tickets (arXiv 2110.14068,
    Sec. 3.6; Ramanujan et al., arXiv 1911.13299, Sec. 4).

    Args:
        density: fan scaling: the fraction of weights that will be kept, so that n and m count
            only those (arXiv 1911.13299, "scaled"); 1 for none.
        bias_scale: biases are drawn from U(−b, b) with b = bias_scale·g/√n; 0 for zero biases.

    Raises:
        ValueError: unknown init.
    """
    if init not in INITS:
        raise ValueError(f"unknown init {init!r}; choose one of {', '.join(INITS)}")
    for layer in layers.values():
        weight, bias = layer.weight, getattr(layer, "bias", None)
        assert isinstance(weight, Tensor)
        fan_in = group_weight(layer).fan_in * density
        out, *_ = group_weight(layer).out_first
        fan_out = out * math.prod(weight.shape[2:]) * density
        gain = math.sqrt(2.0 / fan_in)
        std = gain if "kaiming" in init else math.sqrt(2.0 / (fan_in + fan_out))
        noise = torch.empty(weight.shape, dtype=torch.float64)  # drawn on the CPU: same everywhere
        if init == "kaiming_uniform":
            noise.uniform_(-math.sqrt(3.0), math.sqrt(3.0), generator=generator)
        else:
            noise.normal_(generator=generator)
        if init.endswith("constant"):
            noise = torch.where(noise < 0, -1.0, 1.0)
        weight.copy_(noise * std)
        if isinstance(bias, Tensor):
            drawn = torch.empty(bias.shape, dtype=torch.float64)
            bias.copy_(drawn.uniform_(-1.0, 1.0, generator=generator) * (bias_scale * gain))


@torch.no_grad()
def shift_norms(model: nn.Module, shift: float, *, generator: torch.Generator) -> None:
    """Draw the shifts of affine batch norms from U(−shift, 0), with scale 1, in place.

    Batch norm without an affine part puts every threshold of a random network at the mean of its
    unit. A large ε needs units that stay silent below a higher one, so that a perturbation of
    the background dies at the first ReLU; random shifts, never trained, offer them to the search.

    Raises:
        ValueError: shift is negative, or the model has no affine batch norm to shift.
    """
    if shift < 0:
        raise ValueError(f"norm_shift must be at least 0, got {shift}")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if shift > 0 and not any(norm.affine for norm in norms):
        raise ValueError(
            f"norm_shift {shift:g} needs batch norms with affine parameters, and "
            f"{type(model).__name__} has none; set norm_shift to 0 or build it with affine norms"
        )
    for norm in norms:
        if norm.affine:
            drawn = torch.empty(norm.bias.shape, dtype=torch.float64)
            norm.weight.fill_(1.0)
            norm.bias.copy_(drawn.uniform_(-1.0, 0.0, generator=generator) * shift)
