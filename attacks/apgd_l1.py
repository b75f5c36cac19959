"""The L1 version of Auto-PGD takes sparse steps whose sparsity adapts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from attacks.geometry import per_example
from attacks.inputs import loss_and_gradient, misclassified
from attacks.losses import Loss
from attacks.network import Model
from attacks.threat import ThreatModel

LossTowards = Callable[[Tensor], Loss]  # target classes (N,) -> loss


def sparse_signs(grad: Tensor, share: Tensor) -> Tensor:
    """Return sign(g) on the ``share`` (N,) of entries with the largest |g|, with L1 length 1."""
    flat = grad.flatten(1)
    size = flat.shape[1]
    # rounded down, so that two entries can become one, which is best on a linear model
    kept = (share * size).long().clamp(1, size)
    least = flat.abs().sort(dim=1, descending=True).values.gather(1, kept.unsqueeze(1) - 1)
    signs = flat.sign() * (flat.abs() >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).reshape(grad.shape)


def nonzeros(delta: Tensor) -> Tensor:
    """Return ‖δ_i‖₀ as floats, at least 1, with shape (N,)."""
    return (delta.flatten(1) != 0).sum(1).clamp_min(1).to(delta.dtype)


def ascend_l1(
    model: Model,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    x_adv: Tensor,
    *,
    threat: ThreatModel,
    loss: LossTowards,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run at 3ε, 2ε and ε for 30, 30 and 40% of the steps (Croce & Hein 2021, §3.3).

    Return x_adv (N, …), whether it is misclassified (N,), and the highest loss (N,).
    """
    first = math.ceil(0.3 * steps)
    plan = ((3, first), (2, first), (1, steps - 2 * first)) if steps >= 5 else ((1, steps),)
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    best = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    for k, (factor, share) in enumerate(plan):
        wide = replace(threat, eps=factor * threat.eps)
        x_adv, broken, best = _ascend_at(
            model, x, y, target, wide.project(x, x_adv), threat=wide, loss=loss, steps=share,
            dense=k == 0, stop=factor == 1,
        )  # fmt: skip
    return threat.project(x, x_adv), broken, best


def _ascend_at(
    model: Model,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    x_adv: Tensor,
    *,
    threat: ThreatModel,
    loss: LossTowards,
    steps: int,
    dense: bool,
    stop: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run alg. 1: steps ε along sparse signs; sparsity and step change every 4% of the steps.

    With ``stop``, an example stops at its first misclassified point.
    """
    size = max(1, x[0].numel())
    eps = per_example(threat.eps, x).expand(len(x), *(1,) * (x.dim() - 1))
    used = nonzeros(x_adv - x)
    share = torch.full_like(used, 0.2) if dense else used / size / 1.5
    if dense:
        used = torch.full_like(used, float(size))
    step, period = eps.clone(), max(int(0.04 * steps), 1)
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    found = x_adv.clone()
    x_best, best, grad_best = x_adv, x_adv.new_full((len(x),), -torch.inf), x_adv
    going = torch.arange(len(x), device=x.device)
    project = threat.projector(x, exact=False)
    for i in range(steps + 1):
        logits, value, grad = loss_and_gradient(model, x_adv, y, loss(target))
        grad = threat.uphill(x, x_adv, grad)
        rows = per_example(value > best, x).bool()
        x_best, grad_best = torch.where(rows, x_adv, x_best), torch.where(rows, grad, grad_best)
        best = torch.maximum(value, best)
        fooled = misclassified(logits, y)
        found[going] = torch.where(per_example(fooled, x).bool(), x_adv, x_best)
        broken[going] = fooled
        if stop and bool(fooled.any()):
            keep = ~fooled
            going, x, y, target, x_adv = going[keep], x[keep], y[keep], target[keep], x_adv[keep]
            grad, x_best, grad_best, best = grad[keep], x_best[keep], grad_best[keep], best[keep]
            used, share, step, eps = used[keep], share[keep], step[keep], eps[keep]
            if len(going) == 0:
                break
            project = threat.select(going).projector(x, exact=False)
        if i == steps:
            break
        if i > 0 and i % period == 0:
            now = nonzeros(x_best - x)
            sparser = per_example(now < 0.95 * used, x).bool()
            step = torch.where(sparser, eps, (step / 1.5).clamp_min(eps / 10))
            x_adv, grad = torch.where(sparser, x_best, x_adv), torch.where(sparser, grad_best, grad)
            share, used = now / size / 1.5, now
        x_adv = project(x_adv + step * sparse_signs(grad, share))
    if not stop:
        return x_best, broken, best
    losses = torch.full((len(broken),), torch.inf, dtype=best.dtype, device=best.device)
    losses[going] = best
    return found, broken, losses
