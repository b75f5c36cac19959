"""A backdoor, planted on purpose: does a network learn it, and does it survive compression?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustprune.measure.answers import all_logits
from robustprune.measure.statistics import Proportion, proportion


def stamp(x: Tensor, *, size: int = 3, value: float = 1.0) -> Tensor:
    """Return inputs with a trigger: the last `size` entries of every side are set to `value`.

    BadNets (Gu et al. 2017, arXiv 1708.06733): a small patch in the corner of an image; of a series
    the last steps; of flat features the last ones.

    Args:
        x: (N, C, H, W), (N, C, L) or (N, F).
        value: in input units; it should lie within the bounds of valid inputs.

    Raises:
        ValueError: `size` is below 1, or more than a side.
    """
    sides = x.shape[2:] if x.dim() > 2 else x.shape[1:]
    if not 1 <= size <= min(sides):
        raise ValueError(f"size={size} must be from 1 to the shortest side, {min(sides)}")
    stamped = x.clone()
    corner: tuple[Any, ...] = (..., *(slice(-size, None) for _ in sides))
    stamped[corner] = value
    return stamped


def poison(
    x: Tensor,
    y: Tensor,
    *,
    target: int,
    share: float = 0.1,
    size: int = 3,
    value: float = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return training data in which a share of the other classes has the trigger and the label
    `target`. It is for demonstrations on networks of your own.

    Raises:
        ValueError: `share` is outside of (0, 1], or no example has another class.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be in (0, 1]")
    others = (y != target).nonzero().flatten().cpu()
    if not len(others):
        raise ValueError(f"every example is of the target class {target}")
    generator = torch.Generator().manual_seed(seed)
    number = max(1, round(share * len(others)))
    chosen = others[torch.randperm(len(others), generator=generator)[:number]].to(x.device)
    x, y = x.clone(), y.clone()
    x[chosen] = stamp(x[chosen], size=size, value=value)
    y[chosen] = target
    return x, y


def backdoor_success(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    target: int,
    size: int = 3,
    value: float = 1.0,
    batch_size: int | None = None,
) -> Proportion:
    """Return the share of examples of other classes that the trigger turns into the target class,
    of those that do not get it without the trigger.

    Args:
        x: (N, ...), y: (N,) test examples; on the model's device.

    Raises:
        ValueError: no such example is there, a label is no class, or a logit is NaN.
    """
    plain = all_logits(model, x, y, batch_size=batch_size).argmax(1)
    mine = ((y.cpu() != target) & (plain != target)).to(x.device)
    if not bool(mine.any()):
        raise ValueError(f"every example gets the target class {target} without the trigger")
    stamped = stamp(x[mine], size=size, value=value)
    turned = all_logits(model, stamped, batch_size=batch_size).argmax(1) == target
    return proportion(int(turned.sum()), len(turned))
