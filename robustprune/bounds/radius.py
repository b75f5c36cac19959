"""Certified radii: lower bounds on r*, found by bisection."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks import ThreatModel, attacking
from attacks.geometry import check_norm
from attacks.inputs import loss_and_gradient
from attacks.losses import margin
from attacks.nearest import farthest, first_order_distance
from attacks.threat import Bounds, check_bounds
from robustprune.bounds.checks import BoundMethod, check_call, dtype_of, rows_of
from robustprune.bounds.graph import BoundGraph, trace
from robustprune.bounds.margins import Settings, proven, ready
from robustprune.bounds.progress import OnProgress, Progress


def certified_radius(
    model: nn.Module | BoundGraph,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    bounds: Bounds = None,
    method: BoundMethod = "crown",
    eps_max: float = torch.inf,
    rounds: int = 12,
    steps: int = 20,
    batch_size: int | None = None,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Return a lower bound of r* for each example: the largest ε that was tried and certified.

    The first ε is the distance to the boundary of the network linearised at x. Then ε doubles until
    it is not certified, or until the ball contains all inputs within ``bounds``; bisection follows.

    Args:
        norm, bounds: as in the threat model.
        eps_max: the largest ε that is tried, in input units.
        rounds: the number of values of ε that are tried in all. Each one halves the interval in
            which the largest certified ε lies, once it has two ends.
        method, steps, batch_size, on_progress: as in ``margin_bounds``.

    Returns:
        (N,), float64; 0 where x is misclassified or no ε was certified.

    Raises:
        ValueError: as in ``margin_bounds``, or ``eps_max`` or ``rounds`` is out of range.
    """
    check_norm(norm)
    check_bounds(bounds)
    if not eps_max > 0 or rounds < 1:
        raise ValueError(f"eps_max={eps_max} must be positive and rounds={rounds} at least 1")
    threat = ThreatModel(norm, 0.0, bounds)
    y = check_call(x, y, threat, method, steps, batch_size)
    graph = trace(model)
    first = _distance_if_linear(graph.model, x, y, norm, batch_size)
    limit = farthest(x.double(), bounds, norm).clamp(max=eps_max)
    first = torch.minimum(first.nan_to_num(nan=1.0, posinf=1.0), limit)
    radius = torch.zeros_like(first)
    failed = torch.where(first > 0, torch.inf, 0.0).to(first)
    progress = Progress(on_progress)
    how = Settings(method, steps, batch_size)
    with ready(graph, x) as program:
        for number in range(rounds):
            doubled = torch.minimum(torch.where(radius > 0, 2 * radius, first), limit)
            trial = torch.where(failed.isinf(), doubled, (radius + failed) / 2)
            open_ = ((trial > radius) & (trial < failed)).nonzero().squeeze(1)
            if len(open_) == 0:
                break
            ball = replace(threat, eps=trial[open_])
            stretch = progress.step(number, rounds)
            sure = proven(program, x[open_], y[open_], ball, how, stretch)
            radius[open_[sure]] = trial[open_[sure]]
            failed[open_[~sure]] = trial[open_[~sure]]
    progress.done()
    return radius


def _distance_if_linear(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, batch_size: int | None
) -> Tensor:
    """Return the distance to the nearest class of the network linearised at x, (N,) float64.

    It is 0 where x is misclassified. It is only a start value, on which soundness does not depend.
    """
    parts = []
    with attacking(model, "eval"):
        for part in rows_of(x, batch_size):
            sample = x[part].to(dtype_of(model, x))
            _, lead, grad = loss_and_gradient(model, sample, y[part], margin)
            distance = first_order_distance(lead, grad, norm).double()
            parts.append(torch.where(lead < 0, distance, torch.zeros_like(distance)))
    return torch.cat(parts)
