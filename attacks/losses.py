"""Losses to maximise, one value per example: logits (N, C), labels (N,) -> (N,).

A logit of −∞ excludes its class: it has no influence, and never makes a gradient NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.geometry import brief

Loss = Callable[[Tensor, Tensor], Tensor]


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Return log Σ_{j≠y} e^{z_j} − z_y, the cross-entropy without its saturation.

    −log softmax(z)_y = log(1 + e^L), where L is this loss. Both rise together and their gradients
    have the same direction, but that of the cross-entropy is σ(L) times as long. On a confident
    network float32 rounds it to 0, and an attack does not move.
    """
    # not −∞: if all others are excluded, the sum would be log 0, whose gradient is NaN
    others = logits.scatter(1, y.unsqueeze(1), torch.finfo(logits.dtype).min)
    return others.logsumexp(1) - logits.gather(1, y.unsqueeze(1)).squeeze(1)


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{j≠y} z_j, shape (N,)."""
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return others.amax(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{j≠y} z_j − z_y, which is positive exactly where y is not predicted.

    Carlini & Wagner 2017 (arXiv 1608.04644), f₆ with the opposite sign.
    """
    return best_other(logits, y) - logits.gather(1, y.unsqueeze(1)).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio, which a shift or scale of the logits does not change.

    (max_{j≠y} z_j − z_y) / (z_π1 − z_π3), where π is the descending order; Croce & Hein 2020 (arXiv
    2003.01690), eq. 6. With two classes there is no z_π3, and the ratio would be ±1 without a
    gradient; the margin replaces it, also where all classes but two are excluded.
    """
    gap = margin(logits, y)
    return gap if logits.shape[1] < 3 else _ratio(gap, logits.topk(3, dim=1).values)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return z_t − z_y, where t is the target class."""
    pair = logits.gather(1, torch.stack((target, y), dim=1))
    return pair[:, 0] - pair[:, 1]


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return (z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2), Croce & Hein 2020, eq. 7.

    With three classes, z_π3 replaces the mean of z_π3 and z_π4. With two, the ratio would be
    constant, and the targeted margin replaces it. Excluded classes do not count.
    """
    gap = targeted_margin(logits, y, target)
    if logits.shape[1] < 3:
        return gap
    return _ratio(gap, logits.topk(min(4, logits.shape[1]), dim=1).values)


def _ratio(gap: Tensor, top: Tensor) -> Tensor:
    """Return gap / (z_π1 − mean of z_π3 and later logits of ``top``), without those of −∞."""
    rest = top[:, 2:]
    counts = rest > -torch.inf
    mean = torch.where(counts, rest, 0.0).sum(1) / counts.sum(1).clamp_min(1)
    spread = torch.where(counts[:, 0], top[:, 0] - mean + 1e-12, 1.0)
    settled = gap.isinf()  # y or the target is excluded: a division would give a gradient of 0 · ∞
    return torch.where(settled, gap, gap.masked_fill(settled, 0.0) / spread)


def spread(logits: Tensor) -> Tensor:
    """Return max z − min z of each example, over the classes that are not excluded."""
    least = logits.masked_fill(logits == -torch.inf, torch.inf).amin(1)
    return logits.amax(1) - least


LOSSES: dict[str, Loss] = {"ce": log_odds, "margin": margin, "dlr": dlr}


def named_loss(loss: str | Loss) -> Loss:
    """Return the loss of this name; a function of logits (N, C) and y (N,) is returned unchanged.

    Raises:
        ValueError: the name is not a key of ``LOSSES``.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss={brief(loss)} is not known; choose one of {', '.join(LOSSES)}")
    return LOSSES[loss]
