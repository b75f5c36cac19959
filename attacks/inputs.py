"""Checks at the boundary, and the forward passes that every attack shares."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.box import Bounds, within
from attacks.geometry import brief
from attacks.losses import Loss
from attacks.network import Model, logits_of
from attacks.threat import ThreatModel


def check_batch(x: Tensor, y: Tensor) -> Tensor:
    """Check dtype and shape of a batch without looking at its values; return y as int64.

    Raises:
        ValueError: x is no floating point tensor, or y is not one integer label an example.
    """
    for name, part in (("x", x), ("y", y)):
        if not isinstance(part, Tensor):
            raise ValueError(
                f"{name} is a {type(part).__name__}; pass a tensor, from an array "
                f"torch.from_numpy({name})"
            )
    if not x.is_floating_point():
        raise ValueError(
            f"x has dtype {x.dtype}, which has no gradient; pass floating point inputs in the "
            "units of eps: for images x.float() / 255, for token ids their embeddings, with a "
            "model that takes those"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y has dtype {y.dtype}; pass integer class labels, as in y.long()")
    if x.dim() < 2 or y.dim() != 1 or len(x) != len(y):
        raise ValueError(
            f"x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)} do not fit; "
            "pass x of shape (N, …) and y of shape (N,)"
        )
    return y.long()


def batch_of(
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel | None = None,
    bounds: Bounds = None,
    look: bool = True,
) -> tuple[Tensor, Tensor]:
    """Check a batch; return x without its graph and y as int64, both as tensors of normal mode.

    A tensor made under ``torch.inference_mode`` is copied: autograd cannot save it.

    Args:
        threat: says the bounds, and how many radii there are; without one, bounds says them.
        look: whether to look at the values where that makes a GPU wait; on a CPU always.

    Raises:
        ValueError: see ``check_batch``, ``check_values``, ``ThreatModel.fitting``.
    """
    with torch.inference_mode(False):
        y = check_batch(x, y)
        x, y = (part.clone() if part.is_inference() else part for part in (x.detach(), y))
    if threat is not None:
        threat.fitting(x)
        bounds = threat.bounds
    if look or x.device.type == "cpu":
        check_values(x, bounds)
    return x, y


def check_values(x: Tensor, bounds: Bounds) -> None:
    """Check that x is finite and in the bounds (see ``threat.within``); a GPU synchronises.

    Raises:
        ValueError: with the smallest and largest value found.
    """
    if x.numel() == 0:
        return
    low, high = (value.item() for value in torch.aminmax(x))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"x holds NaN or infinity (min {low}, max {high}); remove it first")
    if not within(x, bounds):
        raise ValueError(
            f"x ranges over [{low:.6g}, {high:.6g}], outside bounds={brief(bounds)}; "
            "pass the bounds of your inputs, or bounds=None"
        )


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Check the shape of the logits, and the labels where that costs no synchronisation.

    Raises:
        ValueError: logits are not (N, C) with C ≥ 2, or a label lies outside [0, C) (on CPU).
    """
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model returned {type(logits).__name__}; wrap it to return a tensor of logits"
        )
    if logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise ValueError(
            f"the model returned shape {tuple(logits.shape)} for {len(y)} examples; attacks need "
            "logits of shape (N, C) with C ≥ 2, for one logit z pass stack((-z/2, z/2), dim=1)"
        )
    if y.device.type == "cpu":
        check_labels(logits, y)


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Raise ValueError where a label lies outside [0, C)."""
    if len(y) and not bool(((y >= 0) & (y < logits.shape[1])).all()):
        low, high = (value.item() for value in torch.aminmax(y))
        raise ValueError(
            f"labels range over [{low}, {high}], but the model has {logits.shape[1]} classes: "
            f"they must lie in [0, {logits.shape[1] - 1}]"
        )


def check_finite(logits: Tensor) -> None:
    """Raise ValueError where a logit is NaN (±infinity orders well and is let through)."""
    if bool(logits.isnan().any()):
        count = int(logits.isnan().any(1).sum())
        raise ValueError(
            f"the model returned NaN logits for {count} of {len(logits)} examples; an attack "
            "would count them as broken, so mend the model first"
        )


@torch.no_grad()
def predict(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """One forward pass without gradients, every check done: logits (N, C)."""
    logits = logits_of(model, x)
    check_logits(logits, y)
    if y.device.type != "cpu":  # `check_logits` has looked at the others
        check_labels(logits, y)
    check_finite(logits)
    return logits


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Where the predicted class is not the label, shape (N,)."""
    return logits.argmax(1) != y


def loss_and_gradient(
    model: Model, x_adv: Tensor, y: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and one backward pass to the input only: logits, losses, ∇_x Σ_i ℓ_i.

    Raises:
        ValueError: the logits carry no gradient graph at all.
    """
    x_adv = x_adv.detach().requires_grad_()
    logits = logits_of(model, x_adv)
    check_logits(logits, y)
    values = loss(logits, y)
    if not values.requires_grad:
        raise ValueError(
            "the model's logits carry no gradient (it detaches, or runs under no_grad); "
            "use a gradient-free attack such as Square"
        )
    (grad,) = torch.autograd.grad(values.sum(), x_adv, allow_unused=True, materialize_grads=True)
    return logits.detach(), values.detach(), grad
