"""Criteria: what a weight is worth, one score for each, the larger the better.

The data-driven ones take a `Loss`, a function of the model and a batch, so that a weight's worth
can be judged under attack as well as on clean examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CriterionName = Literal["magnitude", "random", "snip", "grasp", "obd", "obd_ggn"]
CRITERIA: tuple[CriterionName, ...] = get_args(CriterionName)

#: (model, x, y) -> scalar loss, differentiable in the weights
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: (model, x) -> logits of the points at which curvature is measured
Logits = Callable[[nn.Module, Tensor, Tensor], Tensor]
Batches = Iterable[Sequence[Tensor]]


def weights_of(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameter name -> the layer's weight."""
    weights: dict[str, Tensor] = {}
    for name, layer in layers.items():
        assert isinstance(layer.weight, Tensor)
        weights[name] = layer.weight
    return weights


def at_least_float32(values: Tensor) -> Tensor:
    """The values, half precision made single: scores are compared, summed and trained in it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def magnitude(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    return {name: weight.detach().abs() for name, weight in weights_of(layers).items()}


def random(layers: Mapping[str, nn.Module], *, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform noise: the control that every criterion has to beat."""
    return {
        name: torch.rand(weight.shape, generator=generator).to(weight.device)
        for name, weight in weights_of(layers).items()
    }


def snip(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Batches, loss: Loss
) -> dict[str, Tensor]:
    """|w ⊙ ∂L/∂w|, the connection sensitivity (Lee et al. 2019, arXiv 1810.02340, Eq. 4)."""
    weights = weights_of(layers)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(batches):
        value = part * loss(model, x, y)
        for name, grad in zip(weights, _gradients(value, weights), strict=True):
            total[name] += grad
    return {name: (weights[name].detach() * grad).abs() for name, grad in total.items()}


def grasp(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Batches, loss: Loss
) -> dict[str, Tensor]:
    """w ⊙ (H g): what removing a weight takes from the gradient's length, with g = ∂L/∂w and
    H = ∂²L/∂w² (Wang et al. 2020, arXiv 2002.07376, Eq. 8, which removes the largest −w ⊙ H g)."""
    weights, batches = weights_of(layers), list(batches)
    mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(batches):
        value = part * loss(model, x, y)
        for name, grad in zip(weights, _gradients(value, weights), strict=True):
            mean[name] += grad
    product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(batches):
        value = part * loss(model, x, y)
        for name, hg in zip(weights, _hessian_times(value, weights, mean), strict=True):
            product[name] += hg
    return {name: weights[name].detach() * hg for name, hg in product.items()}


def obd(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Batches,
    loss: Loss,
    *,
    generator: torch.Generator,
    draws: int = 8,
) -> dict[str, Tensor]:
    """½ h w², the rise of the loss when a weight is removed from a minimum (LeCun et al. 1990,
    Optimal Brain Damage, Eq. 5), with the Hessian's diagonal h = E[v ⊙ H v] over random signs v
    (Hutchinson; Bekas et al. 2007). h may be negative away from a minimum: ReLU networks are
    better served by `obd_ggn`.

    Args:
        draws: sign vectors per batch.
    """
    weights = weights_of(layers)
    diagonal = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(batches):
        for _ in range(draws):
            signs = {name: _signs(weight, generator) for name, weight in weights.items()}
            value = part / draws * loss(model, x, y)
            products = _hessian_times(value, weights, signs)
            for name, hv in zip(weights, products, strict=True):
                diagonal[name] += signs[name] * hv
    return {name: 0.5 * h * weights[name].detach() ** 2 for name, h in diagonal.items()}


def obd_ggn(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Batches,
    logits: Logits,
    *,
    generator: torch.Generator,
    draws: int = 8,
) -> dict[str, Tensor]:
    """½ h w² with the diagonal of the generalised Gauss-Newton matrix of the cross-entropy,
    h = E Σ_i (∂ log p(ŷ_i | x_i) / ∂w)² / N over labels ŷ ~ p, which is never negative.

    One backward pass a draw gives Σ_i s_i ∂ log p(ŷ_i)/∂w with random signs s; its square has
    the sum of the single squares as its mean (Schraudolph 2002, Neural Computation 14).
    """
    weights = weights_of(layers)
    diagonal = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(batches):
        output = logits(model, x, y)
        for draw in range(draws):
            probabilities = output.detach().softmax(1).cpu()
            labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
            surprise = F.cross_entropy(output, labels.to(output.device), reduction="none")
            value = (_signs(surprise, generator) * surprise).sum()
            grads = _gradients(value, weights, retain=draw + 1 < draws)
            for name, grad in zip(weights, grads, strict=True):
                diagonal[name] += part / (draws * len(y)) * grad**2
    return {name: 0.5 * h * weights[name].detach() ** 2 for name, h in diagonal.items()}


def _shares(batches: Batches) -> list[tuple[Tensor, Tensor, float]]:
    """Batches with the share of all examples that each holds."""
    known = [(x, y) for x, y in batches]
    total = sum(len(y) for _, y in known)
    if total == 0:
        raise ValueError("the criterion needs at least one batch of examples, got none")
    return [(x, y, len(y) / total) for x, y in known]


def _gradients(
    value: Tensor, weights: Mapping[str, Tensor], *, retain: bool = False
) -> list[Tensor]:
    grads = torch.autograd.grad(
        value, list(weights.values()), retain_graph=retain, allow_unused=True
    )
    return _or_zeros(grads, weights)


def _hessian_times(
    value: Tensor, weights: Mapping[str, Tensor], vector: Mapping[str, Tensor]
) -> list[Tensor]:
    """H v by a second backward pass."""
    inputs = list(weights.values())
    grads = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
    pairs = [
        (grad * vector[name]).sum()
        for name, grad in zip(weights, grads, strict=True)
        if grad is not None and grad.requires_grad
    ]
    if not pairs:  # the loss is linear in every weight
        return [torch.zeros_like(weight) for weight in inputs]
    return _or_zeros(
        torch.autograd.grad(torch.stack(pairs).sum(), inputs, allow_unused=True), weights
    )


def _or_zeros(grads: Sequence[Tensor | None], weights: Mapping[str, Tensor]) -> list[Tensor]:
    return [
        torch.zeros_like(weight) if grad is None else grad.detach()
        for grad, weight in zip(grads, weights.values(), strict=True)
    ]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random ±1, drawn on the CPU: the same everywhere."""
    drawn = torch.randint(2, like.shape, generator=generator)
    return (2 * drawn - 1).to(like)
