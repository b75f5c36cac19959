"""Membership inference: whether a network gives away on which examples it was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprune.measure.answers import all_logits
from robustprune.measure.auroc import auroc
from robustprune.measure.calibration import losses

#: the false positive rate at which an attack is also judged
LOW = 0.01


@dataclass(frozen=True)
class Membership:
    """How well an attack tells training examples from others.

    Attributes:
        members, others: their numbers.
        auroc: the probability that a member scores higher than another example; ½ is chance.
        advantage: the largest TPR − FPR of a threshold, in [0, 1]; 0 is chance, and with few
            examples the largest one is above 0 by chance.
        tpr: the share of members found where at most 1% of the others are taken for members; see
            `chance_at_low` for what is found by chance.
    """

    members: int
    others: int
    auroc: float
    advantage: float
    tpr: float

    def __repr__(self) -> str:
        return (
            f"Membership(members={self.members}, others={self.others}, auroc={self.auroc:.4g}, "
            f"advantage={self.advantage:.4g}, tpr={self.tpr:.4g} at {LOW:.0%} fpr)"
        )


def membership(
    model: nn.Module,
    members: tuple[Tensor, Tensor],
    others: tuple[Tensor, Tensor],
    *,
    batch_size: int | None = None,
) -> Membership:
    """Attack by the loss: examples with a small one are taken for members.

    The threshold adversary of Yeom et al. 2018, arXiv 1709.01604, with every threshold, and their
    membership advantage. It is a weak attack: what it finds is a lower bound of what the network
    gives away. `likelihood_ratio` is stronger.

    Args:
        members: (x, y) of training examples; others: (x, y) of examples from the same source that
            the network never saw; on the model's device.

    Raises:
        ValueError: one side is empty, a label is no class, or a logit is NaN.
    """
    found, rest = (
        -losses(all_logits(model, x, y, batch_size=batch_size), y) for x, y in (members, others)
    )
    return membership_of(found, rest)


def membership_of(members: Tensor, others: Tensor) -> Membership:
    """Judge scores (N,) of members and (M,) of others; a higher one says member."""
    area = auroc(members, others)
    thresholds = torch.unique(torch.cat([members, others]))
    found = torch.searchsorted(members.sort().values, thresholds)
    false = torch.searchsorted(others.sort().values, thresholds)
    tpr, fpr = 1 - found / len(members), 1 - false / len(others)
    low = tpr[fpr <= LOW]
    return Membership(
        len(members),
        len(others),
        area,
        max(0.0, float((tpr - fpr).max())),
        float(low.max()) if len(low) else 0.0,
    )


def chance_at_low(others: int) -> float:
    """Return the mean of `Membership.tpr` for an attack that knows nothing: (⌊0.01 M⌋ + 1)/(M + 1)
    of scores in random order, more than 1% because the threshold is set on the M others."""
    return (int(LOW * others + 1e-9) + 1) / (others + 1)


def likelihood_ratio(
    model: nn.Module,
    fit: Callable[[Tensor, Tensor, int], nn.Module],
    x: Tensor,
    y: Tensor,
    member: Tensor,
    *,
    shadows: int = 16,
    seed: int = 0,
    batch_size: int | None = None,
) -> Membership:
    """Attack by the likelihood ratio of shadow networks, trained with and without each example.

    See `likelihood_ratio_scores` for the scores.

    Args:
        x, y: members and others; member: (N,) bool, which of them `model` was trained on.

    Raises:
        ValueError: members or others are missing, or as in `likelihood_ratio_scores`.
    """
    member = member.cpu()
    if bool(member.all()) or not bool(member.any()):
        raise ValueError("both members and other examples are needed")
    score = likelihood_ratio_scores(
        model, fit, x, y, shadows=shadows, seed=seed, batch_size=batch_size
    )
    return membership_of(score[member], score[~member])


def likelihood_ratio_scores(
    model: nn.Module,
    fit: Callable[[Tensor, Tensor, int], nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    shadows: int = 16,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Return a score of each example, (N,) float64; a higher one says that `model` was trained on
    it.

        score_i = log N(φ_i; μ_in,i, σ_in) − log N(φ_i; μ_out,i, σ_out)
        φ = log p(y) − log(1 − p(y))

    LiRA (Carlini et al. 2022, arXiv 2112.03570, Algorithm 1), with one variance for all examples,
    as they advise for few shadow networks, and without augmentation. Shadows come in pairs that
    train on complementary halves, so that every example is in half of them.

    Args:
        fit: (x, y, seed) -> a network trained on these examples as `model` was. The seeds are
            `seed`, `seed` + 1, …, and each gets the same examples in every call.
        x, y: members and others, (N, ...) and (N,).
        shadows: the number of shadow networks, an even number from 4.

    Raises:
        ValueError: `shadows` is odd or below 4, a logit is NaN, or that of a label is −∞, for which
            φ is not finite.
    """
    check_shadows(shadows)
    generator = torch.Generator().manual_seed(seed)
    scores, inside = [], []
    for pair in range(shadows // 2):
        chosen = torch.randperm(len(x), generator=generator) < len(x) // 2
        for number, taken in enumerate((chosen, ~chosen)):
            where = taken.to(x.device)
            shadow = fit(x[where], y[where], seed + 2 * pair + number)
            scores.append(_scaled_confidence(shadow, x, y, batch_size))
            inside.append(taken.numpy())
    phi, taken_in = np.stack(scores), np.stack(inside)
    target = _scaled_confidence(model, x, y, batch_size)
    return torch.from_numpy(
        _log_normal(target, phi, taken_in) - _log_normal(target, phi, ~taken_in)
    )


def check_shadows(shadows: int) -> None:
    """Raise ValueError unless so many shadow networks can be trained in pairs."""
    if shadows < 4 or shadows % 2:
        raise ValueError(f"shadows={shadows} must be an even number from 4")


def _scaled_confidence(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int | None
) -> NDArray[np.float64]:
    """Return log p(y) − log(1 − p(y)) of each example, (N,)."""
    logits, labels = all_logits(model, x, y, batch_size=batch_size), y.cpu().long()[:, None]
    own = logits.gather(1, labels).squeeze(1)
    found: NDArray[np.float64] = (own - logits.scatter(1, labels, -torch.inf).logsumexp(1)).numpy()
    if not np.isfinite(found).all():
        raise ValueError(
            "the network gives some labels a probability of exactly 0 or 1, by logits of −∞, which "
            "the likelihood ratio can't compare"
        )
    return found


def _log_normal(
    target: NDArray[np.float64], phi: NDArray[np.float64], used: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the log density (up to a constant) of the target's values (N,) under the values of
    the shadows (S, N) that are `used`, with a mean per example and one variance."""
    count = used.sum(0)
    mean = np.where(used, phi, 0.0).sum(0) / count
    rest = np.where(used, phi - mean, 0.0)
    variance = max(float((rest**2).sum() / (count - 1).sum()), 1e-12)
    found: NDArray[np.float64] = -((target - mean) ** 2) / (2 * variance) - 0.5 * np.log(variance)
    return found
