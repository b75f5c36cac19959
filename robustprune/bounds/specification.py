"""Write margins z_y − z_j as rows of coefficients of the logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustprune.bounds.program import Program


def others(y: Tensor, classes: int) -> Tensor:
    """Return the classes j ≠ y in increasing order, (N, C − 1)."""
    index = torch.arange(classes - 1, device=y.device)
    return index + (index >= y.unsqueeze(1))


def margins_over_others(y: Tensor, program: Program) -> Tensor:
    """Return the coefficients of z_y − z_j for j in ``others``, (N, C − 1, C).

    Raises:
        ValueError: a label lies outside [0, C).
    """
    classes = program.nodes[program.output].shape[0]
    if len(y) and not bool(((y >= 0) & (y < classes)).all()):
        low, high = (value.item() for value in torch.aminmax(y))
        raise ValueError(
            f"labels range over [{low}, {high}], but the model has {classes} classes: they must "
            f"lie in [0, {classes - 1}]"
        )
    own = F.one_hot(y, classes).unsqueeze(1)
    return (own - F.one_hot(others(y, classes), classes)).to(program.dtype)


def by_class(values: Tensor, y: Tensor, *, own: float) -> Tensor:
    """Put values over ``others``, (N, C − 1), at their classes, (N, C), with ``own`` at y."""
    classes = values.shape[1] + 1
    out = values.new_full((len(values), classes), own)
    return out.scatter(1, others(y, classes), values)
