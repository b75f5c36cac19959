"""Randomised smoothing: Cohen, Rosenfeld & Kolter 2019 (arXiv 1902.02918).

The smoothed classifier answers g(x) = argmax_c P(f(x + ε) = c), ε ~ N(0, σ²I). What is certified
is g, not the network f. The noise may leave the range of valid inputs (an image's [0, 1]): f must
take such inputs, as it must wherever g is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

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

#: samples before the first look at whether an example is hopeless; each look doubles them
_FIRST_LOOK = 256
#: an example is given up when so few hits have at most this probability under p_A = 1/2
_FUTILITY = 1e-6


@dataclass(frozen=True)
class SmoothingResult:
    """What CERTIFY says of N examples; all tensors on the CPU.

    Attributes:
        prediction: (N,) int64, the class of g, or ABSTAIN.
        radius: (N,) float64, input units, L2: g answers `prediction` at every x' with
            ‖x' − x‖₂ < radius; 0 where it abstains.
        hits: (N,) int64, estimation samples that fell into the selected class; samples that an
            early exit left out count as misses.
        drawn: (N,) int64, estimation samples made, n unless the example was given up.
        p_lower: (N,) float64, lower bound of p_A, of confidence 1 − alpha each.
        sigma, n0, n: as given.
        alpha: failure probability per example (already divided by N if `simultaneous` was asked).
    """

    prediction: Tensor
    radius: Tensor = field(repr=False)
    hits: Tensor = field(repr=False)
    drawn: Tensor = field(repr=False)
    p_lower: Tensor = field(repr=False)
    sigma: float
    n0: int
    n: int
    alpha: float

    @property
    def total_failure(self) -> float:
        """At most N·alpha (Bonferroni): probability that any of the N statements is wrong."""
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
    """CERTIFY of Cohen et al. 2019, Sec. 3.2.2: a class and a radius, or abstention.

    n0 samples select the likeliest class ĉ; n fresh ones count its hits k; p_A is their one-sided
    Clopper-Pearson bound of confidence 1 − α; if p_A > 1/2 the radius is σΦ⁻¹(p_A) in L2
    (Theorem 1), else it abstains. Each statement is wrong with probability at most α over the
    noise of the call, and all N together with at most N·α.

    An example is given up before its n samples are made once its hits are so few that they had
    probability 1e-6 if p_A were 1/2, looked at after 256, 512, 1024, ... samples. Giving up means
    abstaining, so it can't certify anything that the full count would not: the error probability
    stays at most α. All it may cost is an abstention where a radius next to zero was to be had.

    Several ranks share the examples out among them; each gets the whole result.

    Args:
        model: a module (in eval mode meanwhile) or any callable that returns logits.
        x: (N, ...) floating point, on the model's device.
        sigma: standard deviation of the noise, input units.
        simultaneous: spend α/N on each example, so that all N statements hold together with
            probability 1 − α.
        support: where there is noise, as in `ThreatModel`; None for everywhere. The radius then
            holds for changes within it, such as those of word embeddings.
        batch_size: pairs (example, noise) in one forward pass; None for as many as the device
            takes; a batch that runs out of memory is tried again in halves. The noise of example
            i depends on seed, i, the shape and the kind of device alone, so results are the same
            for every batch size as long as the network's answers are.

    Raises:
        ValueError: options out of range, n too small to certify anything at this α, logits that
            are not (N, C) or are NaN.
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
    """The counting of CERTIFY: n0 samples select a class, n fresh ones count its hits.

    Args:
        rows: of the `total` examples, those to count; the others get zeros.

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
    """PREDICT of Cohen et al. 2019, Sec. 3.2.1: the class of g for every example, or ABSTAIN.

    With n_A and n_B the counts of the two likeliest classes among n samples, the answer is the
    first if the two-sided binomial test of n_A successes in n_A + n_B at p = 1/2 has a p-value of
    at most α. It differs from g(x) with probability at most α, abstentions aside.

    Args:
        as for `certify`.

    Returns:
        (N,) int64 on the CPU.

    Raises:
        ValueError: as `certify`.
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
    """σΦ⁻¹(p_A) where p_A > 1/2 and 0 elsewhere: Theorem 1 with p_B = 1 − p_A."""
    return np.where(p_lower > 0.5, sigma * ndtri(np.maximum(p_lower, 0.5)), 0.0)


def _looks(n: int) -> list[int]:
    """n samples in parts: looks after 256, 512, 1024, ... and n."""
    looks = [0]
    while looks[-1] < n:
        looks.append(min(n, max(_FIRST_LOOK, 2 * looks[-1])))
    return [after - before for before, after in itertools.pairwise(looks)]


def _hopeless(hits: Tensor, drawn: Tensor) -> Tensor:
    """Where so few hits would be next to impossible if p_A were 1/2."""
    return torch.from_numpy(binom.cdf(hits.numpy(), drawn.numpy(), 0.5) <= _FUTILITY)


def _check_noise(x: Tensor, sigma: float) -> None:
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(
            f"x must be floating point of shape (N, ...), got {x.dtype} of shape {tuple(x.shape)}"
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
    """Refuse so few samples that even n hits leave the Clopper-Pearson bound at 1/2 or below."""
    if alpha ** (1 / n) <= 0.5:
        raise ValueError(
            f"n={n} samples can't certify anything at alpha={alpha:g} an example, even if all are "
            f"hits; use at least n={math.floor(math.log(alpha) / math.log(0.5)) + 1}"
        )
