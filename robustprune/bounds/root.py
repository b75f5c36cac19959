"""Where a margin that falls with ε becomes 0: a secant search for many examples at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: the least and the greatest exponent β
EXPONENTS = (0.5, 8.0)
#: ε grows by at most this factor from trial to trial
GROWTH = 4.0
#: the share of the margin m(0) above which the root is still far
FAR = 0.005
#: a search that ends far below all failures has tried a radius that is larger by this share
BEYOND = 0.05


@dataclass
class Search:
    """The largest ε of each example at which its margin bound is positive.

    The margin is modelled by m(ε) = m(0) − c ε^β, because its logarithm log(m(0) − m(ε)) is nearly
    linear in log ε. β and c come from the last two trials, so the search converges like the secant
    method. What it returns was tried; the model decides only what is tried next.

    Successes one after another mean that the bound falls more slowly than the model: where the
    margin is still above FAR, the second and later ones double the logarithm of the step. The third
    and later of several successes or failures halve the bracket.

    Where the model sees the root at the radius, and nothing just above has failed, an ε that is
    larger by BEYOND is tried before the search ends: a bound may fall more slowly than the model
    allows.

    Attributes:
        start: the margins m(0), (N,). Examples with start ≤ 0 are not searched.
        limit: the largest ε that is tried, (N,).
        tolerance: the search ends when the radius would grow by no more than this share.
        radius: the largest ε with a positive margin, 0 at first; failed: the smallest ε without.
        trial: the next ε; beyond: whether it is such a last one.
        streak: how many trials have succeeded, or (negative) failed, one after another.
    """

    start: Tensor
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
        cls, start: Tensor, first: Tensor, limit: Tensor, tolerance: float, beta: float
    ) -> Search:
        """Begin with the trial ``first``, and with β until there are two trials."""
        zero = torch.zeros_like(first)
        failed = torch.where((start > 0) & (limit > 0), torch.inf, 0.0).to(first)
        trial = torch.minimum(first, limit)
        betas = torch.full_like(first, beta)
        return cls(
            start, limit, tolerance, zero, failed, trial, betas, zero.clone(), zero.clone(),
            torch.zeros_like(first, dtype=torch.bool), zero.clone(),
        )  # fmt: skip

    def open(self) -> Tensor:
        """Return the examples whose search goes on."""
        left = (self.trial > self.radius) & (self.trial < self.failed)
        enough = self.trial > self.radius * (1 + self.tolerance / 2)
        apart = self.failed > self.radius * (1 + self.tolerance)
        at_limit = self.radius >= self.limit
        return (left & (enough | (self.trial == self.limit)) & apart & ~at_limit).nonzero()[:, 0]

    def tried(self, rows: Tensor, margins: Tensor) -> Tensor:
        """Take the margins at ``trial`` of some examples, and choose the next trial.

        Returns:
            Which of the rows failed.
        """
        eps, sure = self.trial[rows], margins > 0
        self.radius[rows[sure]] = eps[sure]
        self.failed[rows[~sure]] = eps[~sure]
        drop = self.start[rows] - margins
        usable = drop.isfinite() & (drop > 0)
        seen = usable & (self.drop[rows] > 0) & (eps != self.last[rows])
        rise = (drop / self.drop[rows]).log() / (eps / self.last[rows]).log()
        beta = torch.where(seen & rise.isfinite(), rise, self.beta[rows]).clamp(*EXPONENTS)
        self.beta[rows] = beta
        self.last[rows[usable]], self.drop[rows[usable]] = eps[usable], drop[usable]
        root = eps * (self.start[rows] / drop) ** (1 / beta)
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
        return ~sure
