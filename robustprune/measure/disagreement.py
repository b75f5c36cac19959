"""Disagreement of a compressed network with the dense one: how much, and at whose cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustprune.measure.answers import all_logits, checked_labels, group_codes
from robustprune.measure.comparison import PairedTest, exact_difference, holm, mcnemar
from robustprune.measure.statistics import Proportion, proportion


@dataclass(frozen=True)
class Flips:
    """What compression changes for the examples of one class, or of one group.

    Attributes:
        name: the class or group.
        n: its number of examples.
        lost, won: the number that only the dense, or only the compressed, network has right.
        ci95: the exact interval of the change in accuracy, (won − lost)/n.
        p: McNemar's exact two-sided p-value, corrected by Holm's method for the number of classes
            or groups.
    """

    name: str
    n: int
    lost: int
    won: int
    ci95: tuple[float, float]
    p: float

    @property
    def change(self) -> float:
        """The accuracy of the compressed network minus that of the dense one, on these examples."""
        return (self.won - self.lost) / self.n


@dataclass(frozen=True, repr=False)
class Disagreement:
    """How the answers of two networks differ on the same N examples.

    Attributes:
        churn: the share of examples that get another answer.
        lost, won: the number that only the dense, or only the compressed, network has right.
        classes, groups: the same by label and by group, those that lose most first.
    """

    churn: Proportion
    lost: int
    won: int
    classes: tuple[Flips, ...]
    groups: tuple[Flips, ...] = ()

    @property
    def worst_class(self) -> Flips:
        """The class whose accuracy falls most."""
        return self.classes[0]

    def __repr__(self) -> str:
        worst = self.worst_class
        low, high = worst.ci95
        return (
            f"Disagreement(n={self.churn.n}, churn={self.churn.value:.4g}, lost={self.lost}, "
            f"won={self.won}, worst class {worst.name}: {worst.change:+.4g} "
            f"[{low:.3g}, {high:.3g}])"
        )


def disagreement(
    dense: nn.Module,
    compressed: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[object] | Tensor | None = None,
    batch_size: int | None = None,
) -> Disagreement:
    """Compare the answers of two networks on the same examples.

        churn = 1/n Σ_i [argmax f(x_i) ≠ argmax g(x_i)]

    (Milani Fard et al., NeurIPS 2016.) That classes do not lose alike when a network is
    pruned is from Hooker et al., arXiv 1911.05248 and 2010.03058.

    Args:
        x: (N, ...), y: (N,); on the models' device.
        names: the names of the classes, of which a network may have more outputs; None for their
            numbers.
        groups: the group of each example, N values of any kind; None for no groups.

    Raises:
        ValueError: there are no examples, a label is no class, a logit is NaN, the networks have
            different numbers of classes, or groups do not fit.
    """
    first, second = (all_logits(one, x, y, batch_size=batch_size) for one in (dense, compressed))
    return disagreement_of(first, second, y, names=names, groups=groups)


def disagreement_of(
    dense: Tensor,
    compressed: Tensor,
    y: Tensor,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[object] | Tensor | None = None,
) -> Disagreement:
    """Compare two networks by their logits (N, C) on the same examples, see `disagreement`."""
    if dense.shape != compressed.shape:
        raise ValueError(
            f"the dense network gives logits {tuple(dense.shape)} and the compressed one "
            f"{tuple(compressed.shape)}; both must have the same examples and classes"
        )
    y = checked_labels(y, len(dense)).cpu()
    names = [str(label) for label in range(dense.shape[1])] if names is None else list(names)
    if len(y) and len(names) <= int(y.max()):
        raise ValueError(f"there are {len(names)} names for labels up to {int(y.max())}")
    first, second = dense.argmax(1).cpu(), compressed.argmax(1).cpu()
    before, after = first == y, second == y
    by_group: tuple[Flips, ...] = ()
    if groups is not None:
        by_group = _flips(before, after, *group_codes(groups, len(y)))
    return Disagreement(
        churn=proportion(int((first != second).sum()), len(y)),
        lost=int((before & ~after).sum()),
        won=int((after & ~before).sum()),
        classes=_flips(before, after, tuple(names), y),
        groups=by_group,
    )


def _flips(before: Tensor, after: Tensor, names: Sequence[str], code: Tensor) -> tuple[Flips, ...]:
    present = torch.unique(code).tolist()
    tests: list[tuple[int, int, PairedTest]] = []
    for place in present:
        mine = code == place
        tests.append((place, int(mine.sum()), mcnemar(before[mine].tolist(), after[mine].tolist())))
    found = [
        Flips(
            name=names[place],
            n=n,
            lost=test.worse,
            won=test.better,
            ci95=exact_difference(test.better, test.worse, n),
            p=p,
        )
        for (place, n, test), p in zip(tests, holm([t.p for *_, t in tests]), strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (one.change, one.p)))
