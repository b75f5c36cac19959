"""Where a margin that falls with ε becomes 0: a secant search for many examples at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: the least and the greatest exponent β
EXPONENTS = (0.5, 8.0)
#: ε grows by at most this factor from trial to trial
GROWTH = 4.0
#: the steps of Newton's method for the root of the model
NEWTON = 12
#: the share of the margin m(0) above which the root is still far
FAR = 0.005
#: a search that ends far below all failures has tried a radius that is larger by this share
BEYOND = 0.05


@dataclass
class Search:
    """The largest ε of each example at which its margin bound is positive.

    The margin is modelled by m(ε) = m(0) − g ε − c ε^β. Here g is the slope of the margin of the
    network linearised at x. The rest, by which the bounds deviate from it, is nearly a power of ε.
    β and c come from the last two trials, so the search converges like the secant method. Where the
    margin falls more slowly than g ε, g = 0 is taken. What the search returns was tried; the model
    decides only what is tried next.

    Successes one after another mean that the bound falls more slowly than the model: where the
    margin is still above FAR, the second and later ones double the logarithm of the step. The third
    and later of several successes or failures halve the bracket.

    Where the model sees the root at the radius, and nothing just above has failed, an ε that is
    larger by BEYOND is tried before the search ends: a bound may fall more slowly than the model
    allows.

    Attributes:
        start: the margins m(0), (N,). Examples with start ≤ 0 are not searched.
        slope: the slopes g, (N,).
        limit: the largest ε that is tried, (N,).
        tolerance: the search ends when the radius would grow by no more than this share.
        radius: the largest ε with a positive margin, 0 at first; failed: the smallest ε without.
        trial: the next ε; beyond: whether it is such a last one.
        streak: how many trials have succeeded, or (negative) failed, one after another.
    """

    start: Tensor
    slope: Tensor
    limit: Tensor
    tolerance: float
    radius: Tensor
    failed: Tensor
    trial: Tensor
    beta: Tensor
    last: Tensor
    drop: Tensor
    beyond: Tensor
    streak: Tensor

    @classmethod
    def begin(
        cls,
        start: Tensor,
        slope: Tensor,
        first: Tensor,
        limit: Tensor,
        tolerance: float,
        beta: float,
    ) -> Search:
        """Begin with the trial ``first``, and with β until there are two trials."""
        zero = torch.zeros_like(first)
        failed = torch.where((start > 0) & (limit > 0), torch.inf, 0.0).to(first)
        trial = torch.minimum(first, limit)
        betas = torch.full_like(first, beta)
        return cls(
            start, slope, limit, tolerance, zero, failed, trial, betas, zero.clone(), zero.clone(),
            torch.zeros_like(first, dtype=torch.bool), zero.clone(),
        )  # fmt: skip

    def open(self) -> Tensor:
        """Return the examples whose search goes on."""
        left = (self.trial > self.radius) & (self.trial < self.failed)
        enough = self.trial > self.radius * (1 + self.tolerance / 2)
        apart = self.failed > self.radius * (1 + self.tolerance)
        at_limit = self.radius >= self.limit
        return (left & (enough | (self.trial == self.limit)) & apart & ~at_limit).nonzero()[:, 0]

    def tried(self, rows: Tensor, margins: Tensor) -> None:
        """Take the margins at ``trial`` of some examples, and choose the next trial."""
        eps, sure = self.trial[rows], margins > 0
        self.radius[rows[sure]] = eps[sure]
        self.failed[rows[~sure]] = eps[~sure]
        drop = self.start[rows] - margins
        usable = drop.isfinite() & (drop > 0)
        # without the linear part, if it is all of the fall
        before = self.last[rows]
        falls = (drop > self.slope[rows] * eps) & (self.drop[rows] > self.slope[rows] * before)
        slope = torch.where(falls | (before == 0), self.slope[rows], 0.0)
        slope = torch.where(drop > slope * eps, slope, 0.0)
        rest, earlier = drop - slope * eps, self.drop[rows] - slope * before
        seen = usable & (earlier > 0) & (eps != before)
        rise = (rest / earlier).log() / (eps / before).log()
        beta = torch.where(seen & rise.isfinite(), rise, self.beta[rows]).clamp(*EXPONENTS)
        self.beta[rows] = beta
        self.last[rows[usable]], self.drop[rows[usable]] = eps[usable], drop[usable]
        root = _root(self.start[rows], slope, rest, eps, beta)
        # a little before the root, so that the last trial succeeds
        aim = root * (1 - self.tolerance / 4)
        low, high = self.radius[rows], self.failed[rows]
        middle = torch.where(low > 0, (low * high).sqrt(), high / GROWTH)
        middle = torch.where(high.isinf(), GROWTH * eps, middle)
        # an aim below what is certified ends the search after a success, but not after a failure
        aim = torch.where(usable & (aim < high) & ((aim > low) | sure), aim, middle)
        streak = self.streak[rows].clamp(min=0) + 1
        streak = torch.where(sure, streak, self.streak[rows].clamp(max=0) - 1)
        self.streak[rows] = streak
        bolder = eps * (aim / eps) ** (2 ** (streak - 1).clamp(0, 4))
        bolder = torch.minimum(bolder, (aim * high).sqrt())  # still below what failed
        far = sure & (aim > eps) & (margins > FAR * self.start[rows])
        aim = torch.where(far, torch.maximum(aim, bolder), aim)
        aim = torch.where(sure, torch.minimum(aim, GROWTH * eps), aim)
        aim = torch.where((streak <= -3) | ((streak >= 3) & high.isfinite()), middle, aim)
        ends = (aim <= low * (1 + self.tolerance / 2)) & (high > low * (1 + BEYOND)) & (low > 0)
        aim = torch.where(ends, (1 + BEYOND) * low, aim)
        aim = torch.where(self.beyond[rows] & ~sure, low, aim)
        self.beyond[rows] = ends
        self.trial[rows] = torch.minimum(aim, self.limit[rows])


def _root(start: Tensor, slope: Tensor, rest: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
    """Return the t at which slope · t + rest · (t / eps)^beta is start, by Newton's method.

    It begins on the right, from where the iteration falls to the root of a convex function; for
    beta < 1 the result is only an estimate, like the model itself.
    """
    t = eps * (start / rest) ** (1 / beta)
    for _ in range(NEWTON):
        power = rest * (t / eps) ** beta
        t = (t - (slope * t + power - start) / (slope + beta * power / t)).maximum(t * 0.01)
    return t
