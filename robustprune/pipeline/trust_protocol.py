"""What the page of `robustprune trust` says about how the measures of a classifier were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks import Attack


def said_attacks(attacks: Mapping[str, Attack], number: int) -> str:
    """Return what the page says of the attacks."""
    said = "; ".join(f"{name}: {attack!r}" for name, attack in attacks.items())
    return (
        f"the worst of {len(attacks)} for each of the {number:,} examples and for each network "
        f"itself, an upper bound on robust accuracy. They are those of the run's evaluation. {said}"
    )


def said_corruptions(used: Sequence[str] | Mapping[str, Tensor]) -> str:
    """Return what it says of corruptions."""
    if not used:
        return "none for such inputs"
    made = "of the data set CIFAR-10-C" if isinstance(used, Mapping) else "made here"
    return f"{', '.join(used)}; mean over severities 1 to 5, {made}"


def said_members(members: Tensor, others: Tensor, *, selected: bool) -> str:
    """Return what it says of members and other examples, and how much their labels (N,) and (M,)
    alone tell them apart; `selected` is whether the run trained on a choice of its examples."""
    wide = 1 + max(int(members.max()), int(others.max()))
    first, second = (torch.bincount(one, minlength=wide) / len(one) for one in (members, others))
    apart = 50 * float((first - second).abs().sum())
    return (
        f"the first {len(members):,} training examples, beside the test examples. The classes of "
        f"{apart:.1f}% of them would have to change for both to have the same shares; the more, "
        "the more the AUROC tells classes and not members"
        + (". The run chose among its examples, so that some were not trained on" * selected)
    )


def said_outside(outside: Tensor | None) -> str:
    """Return what it says of inputs from outside of the distribution."""
    if outside is None:
        return "none for such inputs"
    return (
        "made of the test examples: the same power spectrum with random phases (of flat features, "
        "columns shuffled between examples)"
    )
