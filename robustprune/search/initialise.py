"""Draw random weights θ for scratch tickets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity import (
    group_weight,
    groups_of,
    is_single,
    leaf_of,
    maskable_layers,
    weights_of,
)
from robustprune.sparsity.matrices import bias_of

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
    density: float | Mapping[str, float] = 1.0,
    bias_scale: float = 0.0,
) -> None:
    """Draw new weights of `layers`, in place.

    With g = √2 (for ReLU), n the fan-in and m the fan-out of a layer:

    | init                    | weight                   |
    | ----------------------- | ------------------------ |
    | signed_kaiming_constant | ± g/√n                   |
    | kaiming_normal          | N(0, g²/n)               |
    | kaiming_uniform         | U(−g√(3/n), g√(3/n))     |
    | xavier_normal           | N(0, 2/(n+m))            |
    | xavier_constant         | ± √(2/(n+m))             |

    signed_kaiming_constant is the best one for robust scratch tickets (arXiv 2110.14068,
    Sec. 3.6; Ramanujan et al., arXiv 1911.13299, Sec. 4).

    Args:
        density: the fraction of weights that will be kept, so that n and m count only those (arXiv
            1911.13299, "scaled"); 1 counts all. It may be a mapping from layer names; layers that
            it does not name have 1.
        bias_scale: biases are drawn from U(−b, b) with b = bias_scale·g/√n; 0 gives zero biases.

    Raises:
        ValueError: `init` is unknown, or `bias_scale` is negative or not finite.
    """
    if not 0 <= bias_scale < math.inf:
        raise ValueError(f"bias_scale={bias_scale} must be at least 0 and finite")
    if init not in INITS:
        raise ValueError(f"unknown init {init!r}; choose one of {', '.join(INITS)}")
    weights, groups = weights_of(layers), groups_of(layers)
    for name, layer in layers.items():
        share = density.get(name, 1.0) if isinstance(density, Mapping) else density
        weight = weights[name]
        fan_in = groups[name].fan_in * share
        fan_out = groups[name].matrix[0] * math.prod(weight.shape[2:]) * share
        gain = math.sqrt(2.0 / fan_in)
        std = gain if "kaiming" in init else math.sqrt(2.0 / (fan_in + fan_out))
        noise = torch.empty(weight.shape, dtype=torch.float64)  # on the CPU: the same everywhere
        if init == "kaiming_uniform":
            noise.uniform_(-math.sqrt(3.0), math.sqrt(3.0), generator=generator)
        else:
            noise.normal_(generator=generator)
        if init.endswith("constant"):
            noise = torch.where(noise < 0, -1.0, 1.0)
        weight.copy_(noise * std)
        if (bias := bias_of(layer, leaf_of(layer, name))) is not None:
            drawn = torch.empty(bias.shape, dtype=torch.float64)
            bias.copy_(drawn.uniform_(-1.0, 1.0, generator=generator) * (bias_scale * gain))


@torch.no_grad()
def draw_thresholds(
    model: nn.Module, between: tuple[float, float], *, generator: torch.Generator
) -> None:
    """Turn the units of the first layer into random thresholds, in place.

    Its weights become |θ|, and the batch norm behind it gets shifts −t with t ~ U(lo, hi), in
    standard deviations of each unit. Batch norm without an affine part sets every threshold of a
    random network to the mean of its unit, which a perturbation of the background can cross. Under
    a large ε, units must be zero for dark pixels, so that the first ReLU removes the perturbation,
    and this needs positive weights. All batch norms get scale 1, and all but the first get shift 0.

    Raises:
        ValueError: lo > hi, the first layer is recurrent, or the model's first batch norm is not an
            affine one over the outputs of the first layer.
    """
    lo, hi = between
    if not lo <= hi:
        raise ValueError(f"thresholds ({lo:g}, {hi:g}) must be (lo, hi) with lo ≤ hi")
    first = next(iter(maskable_layers(model).values()))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not is_single(first):
        raise ValueError(
            f"thresholds need a linear or convolutional first layer, and {type(model).__name__} "
            f"begins with {type(first).__name__}; leave thresholds out"
        )
    outputs = group_weight(first).out_first[0]
    if not norms or not norms[0].affine or norms[0].num_features != outputs:
        raise ValueError(
            f"thresholds need an affine batch norm over the {outputs} outputs of the first layer, "
            f"and {type(model).__name__} has none; leave thresholds out or add one"
        )
    assert isinstance(first.weight, Tensor)
    first.weight.abs_()
    for norm in norms:
        if norm.affine:
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    drawn = torch.empty(outputs, dtype=torch.float64)
    norms[0].bias.copy_(-drawn.uniform_(lo, hi, generator=generator))
