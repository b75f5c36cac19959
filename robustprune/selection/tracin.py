"""TracIn: how much a training step on a candidate would have lowered the validation loss.

Pruthi et al., Estimating training data influence by tracing gradient descent, NeurIPS 2020,
arXiv 2002.08484.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from attacks.modes import evaluating
from attacks.network import pick_logits
from robustprune.selection.features import last_linear
from robustprune.selection.pool import Examples, Pool, batches, check_examples, needed

Layers = Literal["last", "all"]
State = Mapping[str, Tensor]


def tracin(
    model: nn.Module,
    candidates: Examples,
    validation: Examples,
    *,
    checkpoints: Sequence[State],
    learning_rates: Sequence[float],
    layers: Layers = "last",
    batch_size: int = 256,
) -> Tensor:
    """Return the TracInCP score of each candidate, averaged over the validation examples:

        s_i = Σ_t η_t ∇ℓ(w_t, z_i) · 1/M Σ_j ∇ℓ(w_t, z'_j)

    where ℓ is the cross-entropy in eval mode. The second factor takes one backward pass. The
    products with it are directional derivatives of the losses, which take two backward passes for
    all z_i of a batch.

    Args:
        model: the architecture; its own weights, mode and gradients do not change.
        candidates, validation: (x, y), on the model's device.
        checkpoints: state dicts w_t of the model from its training.
        learning_rates: η_t, one for each checkpoint.
        layers: "last" for the parameters of the last linear layer only, or "all" for every
            parameter that requires a gradient.

    Returns:
        The scores (N,), in the dtype of the candidates.

    Raises:
        ValueError: there are no checkpoints or another number of learning rates, a checkpoint
            belongs to another model, `layers` is unknown, or no parameter in them requires a
            gradient.
    """
    if not checkpoints or len(checkpoints) != len(learning_rates):
        raise ValueError(
            f"{len(checkpoints)} checkpoints and {len(learning_rates)} learning rates; give one "
            "rate for each checkpoint, at least one"
        )
    if layers not in get_args(Layers):
        raise ValueError(f"layers={layers!r} is not known; choose one of last, all")
    for what, examples in (("the pool", candidates), ("validation", validation)):
        check_examples(*examples, what)
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    if layers == "last":
        prefix = last_linear(model, candidates[0])
        names = [name for name in names if not prefix or name.startswith(f"{prefix}.")]
    if not names:
        raise ValueError(f"no parameter in layers={layers!r} requires a gradient")
    total = torch.zeros(())
    for state, rate in zip(checkpoints, learning_rates, strict=True):
        moved = _fitting(model, state)
        total = total.to(candidates[0]) + rate * _products(
            model, moved, names, candidates, validation, batch_size
        )
    return total


def _fitting(model: nn.Module, state: State) -> dict[str, Tensor]:
    """Return the checkpoint as plain tensors on the model's device."""
    own = model.state_dict()
    if set(own) != set(state):
        odd = sorted(set(own) ^ set(state))
        raise ValueError(
            f"a checkpoint is not of this model: {len(odd)} names differ, the first is '{odd[0]}'; "
            "give state dicts of the model itself, with masks if it has any"
        )
    return {name: state[name].detach().to(value.device) for name, value in own.items()}


def _products(
    model: nn.Module,
    state: dict[str, Tensor],
    names: list[str],
    candidates: Examples,
    validation: Examples,
    batch_size: int,
) -> Tensor:
    """Return ∇ℓ(z_i) · mean_j ∇ℓ(z'_j) with respect to the parameters `names`, (N,)."""
    weights = tuple(state[name].clone().requires_grad_() for name in names)

    def losses(x: Tensor, y: Tensor, values: tuple[Tensor, ...]) -> Tensor:
        changed = {**state, **dict(zip(names, values, strict=True))}
        logits = pick_logits(functional_call(model, changed, (x.clone(),)))
        return F.cross_entropy(logits, y, reduction="none")

    with evaluating(model), torch.enable_grad():
        gradient = [torch.zeros_like(weight) for weight in weights]
        for x, y in batches(batch_size, *validation):
            parts = torch.autograd.grad(losses(x, y, weights).sum(), weights)
            gradient = [a + b / len(validation[1]) for a, b in zip(gradient, parts, strict=True)]
        products = []
        for x, y in batches(batch_size, *candidates):
            # Jᵀu is linear in u, and the derivative of ⟨Jᵀu, g⟩ with respect to u is J g, the
            # product for each example (torch's forward mode could do it, but gives a warning)
            values = losses(x, y, weights)
            u = torch.ones_like(values).requires_grad_()
            parts = torch.autograd.grad(values, weights, u, create_graph=True)
            along = torch.stack([(a * b).sum() for a, b in zip(parts, gradient, strict=True)])
            products.append(torch.autograd.grad(along.sum(), u)[0])
    return torch.cat(products)


@dataclass(frozen=True, eq=False)
class TracIn:
    """Score candidates by `tracin`. The fields are its options."""

    checkpoints: Sequence[State]
    learning_rates: Sequence[float]
    layers: Layers = "last"
    batch_size: int = 256
    signed: ClassVar[bool] = True

    def __call__(self, model: nn.Module, pool: Pool, validation: Examples | None) -> Tensor:
        return tracin(
            model,
            (pool.x_adv, pool.y),
            needed(validation, self),
            checkpoints=self.checkpoints,
            learning_rates=self.learning_rates,
            layers=self.layers,
            batch_size=self.batch_size,
        )
