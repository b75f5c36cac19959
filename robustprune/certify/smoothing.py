"""Randomised smoothing: Cohen, Rosenfeld & Kolter 2019 (arXiv 1902.02918).

The smoothed classifier answers g(x) = argmax_c P(f(x + ε) = c) with ε ~ N(0, σ²I). The certificate
is for g, not for the network f. The noise may leave the range of valid inputs ([0, 1] for images),
so f must accept such inputs, also when g is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom
from torch import Tensor

from attacks import Model
from robustprune.certify.noise import Counter, counting
from robustprune.measure.statistics import clopper_pearson
from robustprune.run.runtime import merged, rank, ranks

ABSTAIN = -1

#: the number of samples before the first test whether an example is hopeless; then it doubles
_FIRST_LOOK = 256
#: an example is given up if its number of hits has at most this probability under p_A = 1/2
_FUTILITY = 1e-6


@dataclass(frozen=True, repr=False)
class SmoothingResult:
    """The result of CERTIFY for N examples. All tensors are on the CPU.

    Attributes:
        prediction: (N,) int64, the class of g, or ABSTAIN.
        radius: (N,) float64, in input units, L2: g answers `prediction` at every x' with ‖x' − x‖₂
            < radius; 0 where it abstains.
        hits: (N,) int64, the estimation samples in the selected class; samples that were not drawn
            after an early stop count as misses.
        drawn: (N,) int64, the estimation samples that were drawn, n unless the example was given
            up.
        p_lower: (N,) float64, lower bounds of p_A, each with confidence 1 − alpha.
        sigma, n0, n: as in `certify`.
        alpha: the failure probability per example (already divided by N with `simultaneous`).
    """

    prediction: Tensor
    radius: Tensor
    hits: Tensor
    drawn: Tensor
    p_lower: Tensor
    sigma: float
    n0: int
    n: int
    alpha: float

    def __repr__(self) -> str:
        held = self.prediction != ABSTAIN
        radius = f"{self.radius[held].median().item():.4g}" if bool(held.any()) else "–"
        return (
            f"SmoothingResult(n={len(held)}, abstained {int((~held).sum())}, median radius of the "
            f"others {radius} (L2), sigma {self.sigma:g}, alpha {self.alpha:g} an example)"
        )

    @property
    def total_failure(self) -> float:
        """At most N·alpha (Bonferroni): it bounds the probability that any of the N claims is
        wrong."""
        return min(1.0, len(self.prediction) * self.alpha)


def certify(
    model: Model,
    x: Tensor,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    simultaneous: bool = False,
    support: Callable[[Tensor], Tensor] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    title: str = "smoothing",
    quiet: bool = True,
) -> SmoothingResult:
    """Run CERTIFY of Cohen et al. 2019, Sec. 3.2.2, which gives a class and a radius, or abstains.

    n0 samples select the most frequent class ĉ, and n fresh ones count its hits k. p_A is their
    one-sided Clopper-Pearson bound with confidence 1 − α. If p_A > 1/2, the radius is σΦ⁻¹(p_A) in
    L2 (Theorem 1); otherwise it abstains. Each claim is wrong with probability at most α over the
    noise of the call, and any of all N with probability at most N·α.

    An example is given up early if its number of hits has at most probability 1e-6 for p_A = 1/2,
    which is tested after 256, 512, 1024, ... samples. It then abstains, so nothing is certified
    that the full count would not certify, and the error probability stays at most α. The only cost
    is an abstention where the radius would have been almost zero.

    Several ranks share the examples; each rank gets the whole result.

    Args:
        model: a module (which is in eval mode meanwhile) or any function that returns logits.
        x: (N, ...) floating point, on the model's device.
        sigma: the standard deviation of the noise, in input units.
        n0, n: the numbers of samples that select the class and that certify it.
        alpha: the failure probability of each claim, in (0, 1).
        simultaneous: whether each example gets α/N, so that all N claims hold together with
            probability 1 − α.
        support: where there is noise, as in `ThreatModel`; None for everywhere. The radius then
            holds for changes within it, such as those of word embeddings.
        batch_size: the number of pairs (example, noise) in one forward pass; None for as many as
            the device takes. A batch that runs out of memory is split in halves. The noise of
            example i depends only on the seed, i, the shape and the kind of device. So results are
            the same for every batch size if the network's answers are.

    Raises:
        ValueError: an option is out of range, n is too small to certify anything at this α, or
            logits are not (N, C) or are NaN.
    """
    _check_noise(x, sigma)
    check_sampling(alpha=alpha, batch_size=batch_size, seed=seed, n0=n0, n=n)
    level = alpha / max(len(x), 1) if simultaneous else alpha
    check_enough(n, level)
    own = torch.arange(len(x))[rank() :: ranks()]
    noise = counting(
        model,
        x,
        sigma=sigma,
        seed=seed,
        batch_size=batch_size,
        most=n0 + n,
        title=title,
        quiet=quiet,
        support=support,
    )
    with noise as count:
        votes = count_votes(count, own, len(x), n0=n0, n=n)
    guess, hits, drawn = merged(torch.stack(votes))
    p_lower = clopper_pearson(hits.numpy(), n, level)[0]
    sure = p_lower > 0.5
    return SmoothingResult(
        prediction=torch.where(torch.from_numpy(sure), guess, ABSTAIN),
        radius=torch.from_numpy(smoothed_radius(p_lower, sigma)),
        hits=hits,
        drawn=drawn,
        p_lower=torch.from_numpy(p_lower),
        sigma=sigma,
        n0=n0,
        n=n,
        alpha=level,
    )


def count_votes(
    count: Counter, rows: Tensor, total: int, *, n0: int, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Count as CERTIFY does: n0 samples select a class, and n fresh ones count its hits.

    Args:
        rows: the examples to count, among `total`; the others get zeros.

    Returns:
        guess, hits, drawn: (total,) int64, as in `SmoothingResult`.
    """
    guess, hits, drawn = (torch.zeros(total, dtype=torch.int64) for _ in range(3))
    guess[rows] = count(rows, n0).argmax(1)
    for samples in _looks(n):
        counts = count(rows, samples)
        hits[rows] += counts.gather(1, guess[rows, None]).squeeze(1)
        drawn[rows] += samples
        rows = rows[~_hopeless(hits[rows], drawn[rows])]
    return guess, hits, drawn


def predict(
    model: Model,
    x: Tensor,
    *,
    sigma: float,
    n: int = 1000,
    alpha: float = 0.001,
    support: Callable[[Tensor], Tensor] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    title: str = "smoothed prediction",
    quiet: bool = True,
) -> Tensor:
    """Run PREDICT of Cohen et al. 2019, Sec. 3.2.1: the class of g for every example, or ABSTAIN.

    n_A and n_B are the counts of the two most frequent classes among n samples. The answer is the
    first class if the two-sided binomial test of n_A successes in n_A + n_B at p = 1/2 has a
    p-value of at most α. It differs from g(x) with probability at most α, except for abstentions.

    Args:
        They are those of `certify`.

    Returns:
        (N,) int64 on the CPU.

    Raises:
        ValueError: as in `certify`.
    """
    _check_noise(x, sigma)
    check_sampling(alpha=alpha, batch_size=batch_size, seed=seed, n=n)
    noise = counting(
        model,
        x,
        sigma=sigma,
        seed=seed,
        batch_size=batch_size,
        most=n,
        title=title,
        quiet=quiet,
        support=support,
    )
    with noise as count:
        first, second = count(torch.arange(len(x)), n).topk(2, dim=1)
    a, b = first[:, 0].numpy(), first[:, 1].numpy()
    p_value = np.minimum(1.0, 2.0 * binom.sf(a - 1, a + b, 0.5))
    return torch.where(torch.from_numpy(p_value <= alpha), second[:, 0], ABSTAIN)


def smoothed_radius(p_lower: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return σΦ⁻¹(p_A) where p_A > 1/2, and 0 elsewhere: Theorem 1 with p_B = 1 − p_A."""
    return np.where(p_lower > 0.5, sigma * ndtri(np.maximum(p_lower, 0.5)), 0.0)


def _looks(n: int) -> list[int]:
    """Split n samples into parts, which end after 256, 512, 1024, ... and n samples."""
    looks = [0]
    while looks[-1] < n:
        looks.append(min(n, max(_FIRST_LOOK, 2 * looks[-1])))
    return [after - before for before, after in itertools.pairwise(looks)]


def _hopeless(hits: Tensor, drawn: Tensor) -> Tensor:
    """Return where such a small number of hits would be almost impossible for p_A = 1/2."""
    return torch.from_numpy(binom.cdf(hits.numpy(), drawn.numpy(), 0.5) <= _FUTILITY)


def _check_noise(x: Tensor, sigma: float) -> None:
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(
            f"x must be floating point of shape (N, ...), got {x.dtype} of shape {tuple(x.shape)}"
        )
    if len(x) and not x[0].numel():
        raise ValueError(
            f"the inputs of shape {tuple(x.shape)} have no entries, so nothing to change"
        )
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma={sigma} must be finite and above 0, in input units")


def check_sampling(*, alpha: float, batch_size: int | None, seed: int, **samples: int) -> None:
    """Refuse options of smoothing that are out of range; `samples` are numbers of samples."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must lie in (0, 1), as in 0.001")
    for name, value in {"batch_size": batch_size, **samples}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")


def check_enough(n: int, alpha: float) -> None:
    """Refuse n so small that even n hits leave the Clopper-Pearson bound at 1/2 or below."""
    if alpha ** (1 / n) <= 0.5:
        raise ValueError(
            f"n={n} samples can't certify anything at alpha={alpha:g} an example, even if all are "
            f"hits; use at least n={math.floor(math.log(alpha) / math.log(0.5)) + 1}"
        )
