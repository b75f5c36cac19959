"""Square attack: random search that uses only the logits."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.inputs import (
    Configured,
    batch_of,
    check_at_least,
    check_number,
    check_seed,
    check_threat,
    generator_for,
    misclassified,
    predict,
)
from attacks.losses import margin, spread
from attacks.modes import attacking, check_mode
from attacks.network import Model
from attacks.square_steps import first_point, next_point
from attacks.square_windows import Windows
from attacks.threat import ThreatModel


class _State(NamedTuple):
    """The examples that are not broken yet; every tensor has one row per example."""

    row: Tensor
    x: Tensor
    y: Tensor
    x_best: Tensor
    best: Tensor

    def select(self, keep: Tensor) -> _State:
        return _State(*(tensor[keep] for tensor in self))


def window_share(query: int, share: float) -> float:
    """Return the share of the input that changes at a query; halved after 10, 50, 200, … queries.

    Andriushchenko et al. 2020, §5, with their schedule for 10,000 queries.
    """
    marks = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    return share / float(2 ** sum(query > mark for mark in marks))


@dataclass(frozen=True)
class Square(Configured):
    """Change one random window at a time, and keep changes that raise the margin.

    Andriushchenko et al. 2020 (arXiv 1912.00049), alg. 1 to 3: L∞ windows of ±ε, and L2 and L1
    windows that take their length from other windows. A window is a square of images (N, C, H, W),
    a segment of series (N, C, L) or a cube of (N, C, D, H, W), over all channels, with a sign for
    each. In tables (N, F) it is a random subset of the columns, drawn for each example. An example
    stops at its first misclassified point. In L∞, a query whose answer is known costs no forward
    pass (``attacks.square_windows``).

    Args:
        queries: largest number of forward passes per run.
        share: p₀, in (0, 1]: the share of the input that a window covers at first.
        restarts: number of independent runs, each on the examples that are not broken yet.
        seed: seed of the random windows in every call; None uses torch's global generator.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    threat: ThreatModel
    _: KW_ONLY
    queries: int = 5000
    share: float = 0.8
    restarts: int = 1
    seed: int | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        check_at_least(1, queries=self.queries, restarts=self.restarts)
        check_threat(self.threat)
        check_number("in (0, 1]", share=self.share)
        check_seed(self.seed)
        check_mode(self.mode)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y, threat=self.threat)
        if len(x) == 0:
            return x.clone()
        generator = generator_for(self.seed, x)
        with attacking(model, self.mode), torch.no_grad():
            out = x.clone()
            active = (~misclassified(predict(model, out, y), y)).nonzero().squeeze(1)
            for _ in range(self.restarts):
                if len(active) == 0:
                    break
                x_adv, broken = self._run(
                    model, x[active], y[active], self.threat.select(active), generator
                )
                out[active] = x_adv
                active = active[~broken]
        return out

    def _run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        project = threat.projector(x)
        x_adv = project(first_point(x, threat, generator))
        out, broken = x_adv.clone(), torch.zeros_like(y, dtype=torch.bool)
        lowest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        s = _State(torch.arange(len(x), device=x.device), x, y, x_adv, lowest)
        windows, interval = None, threat.interval(x)
        if interval is not None and x.dim() > 2:
            windows = Windows(x, threat, interval, generator)
        rows = s.row
        for query in range(self.queries):
            share = window_share(query - 1, self.share)
            if query > 0 and windows is not None:
                rows, x_adv = windows.propose(s.x_best, share, query)
                if len(rows) == 0:
                    continue
            elif query > 0:
                live = threat.select(s.row)
                rows = torch.arange(len(s.row), device=x.device)
                x_adv = project(next_point(s.x, s.x_best, live, share, generator))
            labels, best = s.y[rows], s.best[rows]
            logits = predict(model, x_adv, labels)
            value = margin(logits, labels).to(x.dtype)
            fooled = misclassified(logits, labels)
            better = ((value > best) | fooled).nonzero().squeeze(1)
            s.best[rows[better]] = value[better]
            s.x_best[rows[better]] = x_adv[better]
            if windows is not None and query > 0:
                windows.answered(query, value, best, spread(logits), rows[better])
            if bool(fooled.any()):
                gone = s.row[rows[fooled]]
                out[gone], broken[gone] = x_adv[fooled], True
                keep = ~broken[s.row]
                s = s.select(keep)
                if len(s.row) == 0:
                    break
                if windows is not None:
                    windows.select(keep)
                else:
                    project = threat.select(s.row).projector(s.x)
        out[s.row] = s.x_best
        return out, broken
