"""α-CROWN: gradient ascent on the lower slopes (Xu et al. 2021, arXiv 2011.13824)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.bounds.activations import Elementwise
from robustprune.bounds.interval import Sweep
from robustprune.bounds.linear import least

LEARNING_RATE = 0.1
DECAY = 0.98


def optimised(known: Sweep, A: Tensor, start: Tensor, *, steps: int) -> Tensor:
    """Raise the lower bounds ``start`` of ⟨A_ns, logits⟩, (N, S), by the choice of lines.

    max_α min_x of the linear bound (Eq. 8), by Adam with slopes of their own for every bounded
    quantity; the best bound of all steps counts, so none falls.  The intervals of the
    nonlinearities' inputs stay as they are.
    """
    position = known.program.output
    choices = {
        k: known.relaxation(k).choice.repeat_interleave(A.shape[1], dim=1)
        for k, node in enumerate(known.program.nodes[: position + 1])
        if isinstance(node.op, Elementwise)
    }
    if not choices or steps == 0:
        return start
    best = start
    with torch.enable_grad():
        for choice in choices.values():
            choice.requires_grad_()
        ascent = torch.optim.Adam(choices.values(), lr=LEARNING_RATE)
        for step in range(steps + 1):
            bound = least(known, A, position, choices=choices)
            best = torch.fmax(best, bound.detach())
            if step == steps:
                break
            grads = torch.autograd.grad(-bound.sum(), list(choices.values()), allow_unused=True)
            for choice, grad in zip(choices.values(), grads, strict=True):
                choice.grad = grad
            ascent.step()
            ascent.param_groups[0]["lr"] *= DECAY
            for k, choice in choices.items():
                choice.data = known.redrawn(k, choice.detach()).choice  # back into its range
    return best
