"""Fairness: whether the answers of a network differ between groups of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.inputs import check_logits
from robustprune.measure.answers import all_logits, checked_labels, group_codes
from robustprune.measure.statistics import Proportion, proportion


@dataclass(frozen=True, repr=False)
class Fairness:
    """How the answers of a network differ between groups, on N examples.

    Attributes:
        n: the number of examples.
        parity: the demographic parity difference, in [0, 1]; 0 is best.
        odds: the equalised odds difference, in [0, 1]; 0 is best.
        accuracy: the accuracy in each group, with its exact 95% interval.
    """

    n: int
    parity: float
    odds: float
    accuracy: dict[str, Proportion]

    @property
    def worst_group(self) -> str:
        """The group with the lowest accuracy."""
        return min(self.accuracy, key=lambda name: self.accuracy[name].value)

    @property
    def worst_accuracy(self) -> float:
        """The accuracy in that group."""
        return self.accuracy[self.worst_group].value

    def __repr__(self) -> str:
        worst = self.worst_group
        return (
            f"Fairness(n={self.n}, parity={self.parity:.4g}, odds={self.odds:.4g}, worst group "
            f"{worst!r}: {self.worst_accuracy:.4g}, n={self.accuracy[worst].n})"
        )


def fairness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    groups: Sequence[object] | Tensor,
    *,
    batch_size: int | None = None,
) -> Fairness:
    """Measure by how much the answers of a network differ between groups.

        demographic parity difference = max_c (max_g − min_g) P(ŷ = c | g)
        equalised odds difference     = max_{c,k} (max_g − min_g) P(ŷ = c | y = k, g)

    (Hardt et al. 2016, arXiv 1610.02413, Sec. 1 and Definition 2.1, as differences.) For two
    classes they are the differences that Fairlearn reports, because one class's rates mirror the
    other's; for more classes the largest one counts. The accuracy of the worst group is from
    Sagawa et al. 2020, arXiv 1911.08731. Groups without an example of a label are left out for
    that label.

    Args:
        x: (N, ...), y: (N,); on the model's device.
        groups: the group of each example, N values of any kind: the protected attribute.

    Raises:
        ValueError: there is a single group, groups do not fit, a label is no class, or a logit is
            NaN.
    """
    return fairness_of(all_logits(model, x, y, batch_size=batch_size), y, groups)


def fairness_of(logits: Tensor, y: Tensor, groups: Sequence[object] | Tensor) -> Fairness:
    """Measure fairness from logits (N, C), labels (N,) and groups, see `fairness`."""
    names = check_groups(groups, len(y))
    check_logits(logits, checked_labels(y, len(logits)))
    counts = cells(logits, y, groups).sum(0)
    shape = (len(names), logits.shape[1], logits.shape[1])
    table = counts.view(shape)
    accuracy = {
        name: proportion(int(of_group.diagonal().sum()), int(of_group.sum()))
        for name, of_group in zip(names, table, strict=True)
    }
    figures = table.unsqueeze(0)
    return Fairness(len(y), float(parity_of(figures)), float(odds_of(figures)), accuracy)


def check_groups(groups: Sequence[object] | Tensor, n: int) -> tuple[str, ...]:
    """Return the names of the groups of n examples.

    Raises:
        ValueError: there are fewer than two groups, or not one for each example.
    """
    names, _ = group_codes(groups, n)
    if len(names) < 2:
        raise ValueError(f"fairness needs at least two groups, got {', '.join(names) or 'none'}")
    return names


def cells(logits: Tensor, y: Tensor, groups: Sequence[object] | Tensor) -> Tensor:
    """Return for each example a one in the column of its (group, label, answer), (N, G·C·C)."""
    names, code = group_codes(groups, len(y))
    classes = logits.shape[1]
    place = (code * classes + y.cpu()) * classes + logits.argmax(1).cpu()
    return F.one_hot(place, len(names) * classes**2).double()


def parity_of(tables: Tensor) -> Tensor:
    """Return the demographic parity difference of each table (R, groups, labels, answers)."""
    return _largest_range(tables.sum(2), dim=1).amax(1)


def odds_of(tables: Tensor) -> Tensor:
    """Return the equalised odds difference of each table (R, groups, labels, answers)."""
    return _largest_range(tables, dim=1).flatten(1).amax(1)


def worst_of(tables: Tensor) -> Tensor:
    """Return the lowest accuracy of a group in each table (R, groups, labels, answers)."""
    right = tables.diagonal(dim1=2, dim2=3).sum(2)
    return torch.nan_to_num(right / tables.sum((2, 3)), nan=1.0).amin(1)


def _largest_range(tables: Tensor, *, dim: int) -> Tensor:
    """Return max − min over groups of the share of each answer; groups without examples are left
    out, and a single group has no range."""
    total = tables.sum(-1, keepdim=True)
    shares = tables / total
    there = (total > 0).expand_as(shares)
    high = shares.masked_fill(~there, -1.0).amax(dim)
    low = shares.masked_fill(~there, 2.0).amin(dim)
    return (high - low).clamp(min=0.0)
