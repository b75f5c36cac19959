"""Windows of the Square attack in L∞, and which of them need no forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.geometry import per_example
from attacks.square_steps import signs, window, window_side
from attacks.threat import ThreatModel

#: with more channels, a window hardly ever comes again with the same sign in each of them
_CHANNELS = 4
#: forward passes in which answers that are known already are asked for nevertheless
_TRIALS = 10
#: largest difference of two answers to the same point, as a share of the spread of the logits
_AGREES = 1e-4


class Windows:
    """Proposals x' = Π(x_best ± 2ε on a window), and what is known about them.

    Late windows are a few entries wide, so that many proposals are the best point itself, or a
    point that the network has answered already and that was no better than the best one. Their
    answer changes nothing, and they are queries without a forward pass. That holds for a network
    whose answer depends on the point alone. So the first passes ask for the best point again, and
    where an answer differs (random networks, batch norm in train mode) everything is asked always.

    Args:
        x: (N, C, …) with at least one dimension after the channels.
        interval: ``threat.interval(x)``.
    """

    def __init__(
        self,
        x: Tensor,
        threat: ThreatModel,
        interval: tuple[Tensor, Tensor],
        generator: torch.Generator | None,
    ) -> None:
        self.lo, self.hi = interval
        self.step = (2 * per_example(threat.eps, x)).expand(len(x), *(1,) * (x.dim() - 1))
        self.generator = generator
        self.row = torch.arange(len(x), device=x.device)
        self.improved = torch.zeros_like(self.row)  # the query that found the best point
        self.asked: dict[tuple[int, ...], Tensor] = {}  # corner -> last query of row and signs
        self.side = 0
        self.trials: int | None = _TRIALS  # None: everything is asked
        self.same = torch.zeros_like(self.row, dtype=torch.bool)

    def select(self, keep: Tensor) -> None:
        """Go on with some of the examples."""
        self.lo, self.hi, self.step = self.lo[keep], self.hi[keep], self.step[keep]
        self.row = self.row[keep]

    def propose(self, x_best: Tensor, share: float, query: int) -> tuple[Tensor, Tensor]:
        """Return the rows that need a forward pass, and their points (len(rows), C, …)."""
        chosen = window(x_best, side := window_side(x_best, share, least=1), self.generator)
        colour = signs((*x_best.shape[:2], *(1,) * (x_best.dim() - 2)), x_best, self.generator)
        old = x_best[chosen]
        new = (old + self.step * colour).clamp(self.lo[chosen], self.hi[chosen])
        self.same = (new == old).flatten(1).all(1)
        if side != self.side:
            self.side, self.asked = side, {}
        repeated = self._repeated(tuple(part.start for part in chosen[2:]), colour, query)
        known = self.same | repeated
        if self.trials != 0 or not bool(known.any()):
            rows = torch.arange(len(x_best), device=x_best.device)
            points = x_best.clone()
        else:
            rows = (~known).nonzero().squeeze(1)
            points, new = x_best[rows], new[rows]
        points[chosen] = new
        return rows, points

    def _repeated(self, corner: tuple[int, ...], colour: Tensor, query: int) -> Tensor:
        """Return where this window was asked since the best point was found, and note it down."""
        count = colour.shape[1]
        if count > _CHANNELS:
            return torch.zeros_like(self.same)
        powers = 2 ** torch.arange(count, device=colour.device)
        code = ((colour.flatten(1) > 0) * powers).sum(1)
        if corner not in self.asked:
            shape = (len(self.improved), 2**count)
            self.asked[corner] = torch.full(shape, -1, dtype=torch.int32, device=code.device)
        last = self.asked[corner][self.row, code]
        self.asked[corner][self.row, code] = query
        return last > self.improved[self.row]

    def answered(
        self, query: int, value: Tensor, best: Tensor, size: Tensor, better: Tensor
    ) -> None:
        """Take note of the answers to the points that ``propose`` returned.

        Args:
            value, best, size: margins of these points, of the best points before, and the spread
                of the logits, each of shape (len(rows),).
            better: rows of the examples whose best point is a new one.
        """
        self.improved[self.row[better]] = query
        if self.trials and bool(self.same.any()):
            agrees = ((value - best).abs() <= _AGREES * size)[self.same]
            self.trials = self.trials - 1 if bool(agrees.all()) else None
