"""Score weights by a criterion: one score for each weight, and the largest are kept.

A criterion is a function of a `Scene` and a row of `CRITERIA`; no other code knows its name. The
loss of the scene may contain an attack, so that weights can be scored under attack as well as on
clean examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.sparsity.matrices import weights_of

Batches = Iterable[Sequence[Tensor]]
#: a function (x, y) -> Tensor of the scene's network
OfBatch = Callable[[Tensor, Tensor], Tensor]


def _none(x: Tensor, y: Tensor) -> Tensor:
    raise ValueError("the criterion needs a loss and logits, and its scene has none")


@dataclass(frozen=True)
class Scene:
    """What a criterion may use. It must not change any of it.

    Attributes:
        model: the network, in eval mode.
        layers: the layers to score, as `maskable_layers` gives them.
        generator: the generator of random numbers, on the CPU.
        batches: pairs (x, y), for criteria that need data.
        loss: a function (x, y) -> the scalar loss of the model, differentiable in its weights.
        logits: a function (x, y) -> the logits of the model at the same inputs as in the loss,
            which may be attacked.
    """

    model: nn.Module
    layers: Mapping[str, nn.Module]
    generator: torch.Generator = field(default_factory=torch.Generator)
    batches: Batches = ()
    loss: OfBatch = _none
    logits: OfBatch = _none


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32, in which scores are compared, summed and trained."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def magnitude(scene: Scene) -> dict[str, Tensor]:
    """Score by |w| (Han et al. 2015, arXiv 1506.02626)."""
    return {name: weight.detach().abs() for name, weight in weights_of(scene.layers).items()}


def random(scene: Scene) -> dict[str, Tensor]:
    """Score by uniform noise. It is the control: every useful criterion must be better."""
    return {
        name: torch.rand(weight.shape, generator=scene.generator).to(weight.device)
        for name, weight in weights_of(scene.layers).items()
    }


def snip(scene: Scene) -> dict[str, Tensor]:
    """Score by |w ⊙ ∂L/∂w|, the connection sensitivity (Lee et al. 2019, arXiv 1810.02340, Eq.
    4)."""
    weights = weights_of(scene.layers)
    return {
        name: (weights[name].detach() * grad).abs()
        for name, grad in _mean_gradient(scene, weights).items()
    }


def grasp(scene: Scene) -> dict[str, Tensor]:
    """Score by w ⊙ (H g), which tells how much removing a weight shortens the gradient.

    g = ∂L/∂w and H = ∂²L/∂w² (Wang et al. 2020, arXiv 2002.07376, Eq. 8, where the weights with the
    largest −w ⊙ H g are removed).
    """
    weights = weights_of(scene.layers)
    mean = _mean_gradient(scene, weights)
    product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(scene.batches):
        value = part * scene.loss(x, y)
        for name, hg in zip(weights, _hessian_times(value, weights, mean), strict=True):
            product[name] += hg
    return {name: weights[name].detach() * hg for name, hg in product.items()}


def obd(scene: Scene, *, draws: int = 8) -> dict[str, Tensor]:
    """Score by ½ h w², by which the loss rises if a weight is removed at a minimum.

    See LeCun et al. 1990, Optimal Brain Damage, Eq. 5. h is the diagonal of the Hessian, estimated
    as E[v ⊙ H v] over random signs v (Hutchinson; Bekas et al. 2007). h may be negative away from a
    minimum, so prefer `obd_ggn` for ReLU networks.

    Args:
        draws: the number of random sign vectors per batch.
    """
    weights = weights_of(scene.layers)
    diagonal = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(scene.batches):
        for _ in range(draws):
            signs = {name: _signs(weight, scene.generator) for name, weight in weights.items()}
            value = part / draws * scene.loss(x, y)
            products = _hessian_times(value, weights, signs)
            for name, hv in zip(weights, products, strict=True):
                diagonal[name] += signs[name] * hv
    return {name: 0.5 * h * weights[name].detach() ** 2 for name, h in diagonal.items()}


def obd_ggn(scene: Scene, *, draws: int = 8) -> dict[str, Tensor]:
    """Score by ½ h w², with h the diagonal of the generalised Gauss-Newton matrix.

    For the cross-entropy, h = E Σ_i (∂ log p(ŷ_i | x_i) / ∂w)² / N over labels ŷ ~ p, which is
    never negative. One backward pass per draw gives Σ_i s_i ∂ log p(ŷ_i)/∂w with random signs s;
    the mean of its square is the sum of squares (Schraudolph 2002, Neural Computation 14).

    Args:
        draws: the number of backward passes per batch.
    """
    weights = weights_of(scene.layers)
    diagonal = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(scene.batches):
        output = scene.logits(x, y)
        for draw in range(draws):
            probabilities = output.detach().softmax(1).cpu()
            labels = torch.multinomial(probabilities, 1, generator=scene.generator).squeeze(1)
            surprise = F.cross_entropy(output, labels.to(output.device), reduction="none")
            value = (_signs(surprise, scene.generator) * surprise).sum()
            grads = _gradients(value, weights, retain=draw + 1 < draws)
            for name, grad in zip(weights, grads, strict=True):
                diagonal[name] += part / (draws * len(y)) * grad**2
    return {name: 0.5 * h * weights[name].detach() ** 2 for name, h in diagonal.items()}


@dataclass(frozen=True)
class Criterion:
    """A row of `CRITERIA`.

    Attributes:
        score: a function that returns for each layer of the scene scores of the shape of its
            weight.
        needs: what it needs besides the weights: "nothing", "gradients" of the loss on batches, or
            "activations" of the layers on batches.
        summary: the score as a formula, with its source.
        draws: whether it draws random numbers from the scene's generator.
    """

    score: Callable[[Scene], dict[str, Tensor]]
    needs: Literal["nothing", "gradients", "activations"]
    summary: str
    draws: bool = False

    @property
    def needs_data(self) -> bool:
        return self.needs != "nothing"


#: every criterion by its name
CRITERIA: Mapping[str, Criterion] = {
    "magnitude": Criterion(magnitude, "nothing", "|w| (Han et al. 2015)"),
    "random": Criterion(random, "nothing", "noise, the control", draws=True),
    "snip": Criterion(snip, "gradients", "|w ∂L/∂w| (Lee et al. 2019)"),
    "grasp": Criterion(grasp, "gradients", "w (H ∂L/∂w) (Wang et al. 2020)"),
    "obd": Criterion(
        obd, "gradients", "½ h w², h the Hessian's diagonal (LeCun et al. 1990)", draws=True
    ),
    "obd_ggn": Criterion(
        obd_ggn, "gradients", "½ h w², h Gauss-Newton's diagonal (Schraudolph 2002)", draws=True
    ),
}


def _mean_gradient(scene: Scene, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ∂L/∂w over all batches."""
    mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, part in _shares(scene.batches):
        value = part * scene.loss(x, y)
        for name, grad in zip(weights, _gradients(value, weights), strict=True):
            mean[name] += grad
    return mean


def _shares(batches: Batches) -> list[tuple[Tensor, Tensor, float]]:
    """Return the batches, each with its share of all examples."""
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
    """Return H v by a second backward pass."""
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
    """Draw random ±1 on the CPU, so that they are the same for every device."""
    drawn = torch.randint(2, like.shape, generator=generator)
    return (2 * drawn - 1).to(like)
