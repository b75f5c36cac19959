"""α-CROWN: gradient ascent on the lower slopes (Xu et al. 2021, arXiv 2011.13824)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.bounds import linear
from robustprune.bounds.activations import Elementwise
from robustprune.bounds.interval import Sweep
from robustprune.bounds.linear import least
from robustprune.bounds.progress import UNTOLD, Progress

LEARNING_RATE = 0.1
DECAY = 0.98


def optimised(
    known: Sweep,
    A: Tensor,
    start: Tensor,
    *,
    steps: int,
    progress: Progress = UNTOLD,
) -> Tensor:
    """Call ``_ascended`` for as many rows at a time as memory allows; rows are independent."""
    # each entry of a row needs slopes, their gradient, two moments, and the graph of autograd
    held = 8 * len(known.inputs.x) * known.program.entries
    step = max(1, linear.CHUNK // max(1, held))
    parts = list(zip(torch.split(A, step, dim=1), torch.split(start, step, dim=1), strict=True))
    best = []
    for number, (rows, bounds) in enumerate(parts):
        best.append(
            _ascended(known, rows, bounds, steps=steps, progress=progress.step(number, len(parts)))
        )
    return torch.cat(best, dim=1)


def _ascended(known: Sweep, A: Tensor, start: Tensor, *, steps: int, progress: Progress) -> Tensor:
    """Raise the lower bounds ``start`` of ⟨A_ns, logits⟩, (N, S), by the choice of lines.

    It computes max_α min_x of the linear bound (Eq. 8) by Adam, with separate slopes for every
    bounded quantity. The best bound of all steps is returned, so none gets worse. The intervals of
    the nonlinearities' inputs do not change.
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
            progress.part(0, (step + 1) / (steps + 1)).done()
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
