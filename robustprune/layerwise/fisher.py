"""How much the loss feels each output of a layer, so that the squares of outputs count accordingly.

To second order, errors e of a layer's outputs y move p by ½ E[(e · ∂ log p(c | x) / ∂ y)²] nats
(Kullback-Leibler), with classes, or next tokens, c drawn from the dense network's own p(· | x): no
labels are needed. The diagonal of this Fisher information has one number for each output:

    F_i = E[(∂ log p(c | x) / ∂ y_i)²],   min over Ŵ of Σ_i F_i ‖(Ŵ X̂ − T)_i‖².

It changes no row's least squares, but which rows keep how many weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.network import pick_logits
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.moments import squares_of

#: how the squares of a layer's outputs count
Outputs = Literal["alike", "fisher"]
OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)


def output_weights(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    *,
    device: torch.device,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return √F of each layer's outputs, (groups, rows) float64, by one backward pass a batch.

    Args:
        network: the dense network, in eval mode, which gives logits of classes in the last
            dimension.
        layers: its layers by the names of their weights.
        seed: draws the classes.

    Raises:
        ValueError: a gradient is NaN or infinite.
    """
    sums: dict[str, Tensor] = {}
    samples: dict[str, int] = {}
    counted: list[Tensor | None] = [None]

    def add(name: str, gradient: Tensor) -> None:
        found, number = squares_of(layers[name], gradient, counted[0])
        sums[name] = sums[name] + found if name in sums else found
        samples[name] = samples.get(name, 0) + number

    def watch(name: str, output: Tensor) -> None:
        output.register_hook(lambda gradient: add(name, gradient))  # type: ignore[no-untyped-call]

    handles = [
        layer.register_forward_hook(lambda _m, _args, output, name=name: watch(name, output))
        for name, layer in layers.items()
    ]
    weights = [cast(nn.Parameter, layer.weight) for layer in layers.values()]
    frozen = [not weight.requires_grad for weight in weights]
    draw = torch.Generator().manual_seed(seed)
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            for batch in batches:
                counted[0] = batch.counted
                logits = pick_logits(batch.call(network, device))
                torch.autograd.grad(
                    _surprise(logits, batch.counted, draw), weights, allow_unused=True
                )
    finally:
        for handle in handles:
            handle.remove()
        for weight, was in zip(weights, frozen, strict=True):
            weight.requires_grad_(not was)
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise ValueError(
                f"the gradient of the outputs of layer {name!r} is NaN or infinite on the "
                "calibration data, as that of a square root at 0; take outputs='alike'"
            )
    return {name: (sums[name] / samples[name]).sqrt() for name in layers if name in sums}


def _surprise(logits: Tensor, counted: Tensor | None, draw: torch.Generator) -> Tensor:
    """Return −Σ log p(c) of classes c drawn from the logits (…, classes), at tokens that count."""
    if counted is not None and logits.shape[:-1] == counted.shape:
        logits = logits[counted.to(logits.device)]
    logits = logits.flatten(0, -2).float()
    drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=draw).squeeze(1)
    return F.cross_entropy(logits, drawn.to(logits.device), reduction="sum")
