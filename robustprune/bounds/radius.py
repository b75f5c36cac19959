"""Certified radii: lower bounds on r*, found by a secant search."""

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
from robustprune.bounds.margins import FIRST, Settings, margins_of, ready
from robustprune.bounds.program import Program
from robustprune.bounds.progress import OnProgress, Progress
from robustprune.bounds.root import Search

#: the tolerance of a search
TOLERANCE = 1e-3
#: the tolerance of the search by "crown-ibp" before a costly method
ROUGH = 0.1
#: where a costly search begins on the way, in logarithms, from the radius by "crown-ibp" to the
#: distance to the boundary of the linearised network
SHARE = 0.6
#: the exponents β that are assumed at first (see ``bounds.root``), as measured on several networks
CHEAP, COSTLY = 1.3, 2.4


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
    tolerance: float = TOLERANCE,
    steps: int = 20,
    batch_size: int | None = None,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Return a lower bound of r* for each example: the largest ε that was tried and certified.

    A secant search (see ``bounds.root``) looks for the ε at which the margin bound becomes 0. It
    starts between the distance to the boundary of the network linearised at x and, for costly
    methods, the radius that "crown-ibp" certifies, at SHARE of the way in logarithms.

    Args:
        norm, bounds: as in the threat model.
        eps_max: the largest ε that is tried, in input units.
        rounds: the largest number of values of ε that are tried for an example with ``method``.
        tolerance: the search ends when the radius would grow by no more than this share.
        method, steps, batch_size, on_progress: as in ``margin_bounds``.

    Returns:
        (N,), float64; 0 where x is misclassified or no ε was certified.

    Raises:
        ValueError: as in ``margin_bounds``, or ``eps_max``, ``rounds`` or ``tolerance`` is out of
            range.
    """
    check_norm(norm)
    check_bounds(bounds)
    if not eps_max > 0 or rounds < 1:
        raise ValueError(f"eps_max={eps_max} must be positive and rounds={rounds} at least 1")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance} must lie in [0, 1)")
    threat = ThreatModel(norm, 0.0, bounds)
    y = check_call(x, y, threat, method, steps, batch_size)
    graph = trace(model)
    lead, first = _lead_and_distance(graph.model, x, y, norm, batch_size)
    limit = farthest(x.double(), bounds, norm).clamp(max=eps_max)
    slope = (lead / first).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
    first = torch.minimum(first.nan_to_num(nan=1.0, posinf=1.0), limit)
    progress = Progress(on_progress)
    how = Settings(method, steps, batch_size)
    with ready(graph, x) as program:
        if method in ("ibp", "crown-ibp"):
            search = Search.begin(lead, slope, first, limit, tolerance, CHEAP)
            _run(search, program, x, y, threat, how, rounds, progress)
        else:
            search = Search.begin(lead, slope, first, limit, ROUGH, CHEAP)
            cheap = how._replace(method="crown-ibp")
            _run(search, program, x, y, threat, cheap, rounds, progress.part(0, FIRST))
            low = search.radius
            between = low ** (1 - SHARE) * first**SHARE
            first = torch.where(low > 0, between, first)
            first = first.maximum(low * (1 + ROUGH))
            search = Search.begin(lead, slope, first, limit, tolerance, COSTLY)
            search.radius = low
            _run(search, program, x, y, threat, how, rounds, progress.part(FIRST, 1))
    progress.done()
    return search.radius


def _run(
    search: Search,
    program: Program,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    how: Settings,
    rounds: int,
    progress: Progress,
) -> None:
    """Try as many values of ε as ``rounds`` and ``tolerance`` allow.

    Each trial is bounded anew, without what is known from larger balls. That would prove a little
    more, because a bound may be looser on a smaller ball, but not by itself at the radius found.
    """
    for number in range(rounds):
        rows = search.open()
        if len(rows) == 0:
            break
        ball, stretch = replace(threat, eps=search.trial[rows]), progress.step(number, rounds)
        margins = margins_of(program, x[rows], y[rows], ball, how, stretch).amin(1)
        search.tried(rows, margins)
    progress.done()


def _lead_and_distance(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, batch_size: int | None
) -> tuple[Tensor, Tensor]:
    """Return the margin of each example, and the distance to the nearest class of the network
    linearised at x, both (N,) float64.

    The distance is 0 where x is misclassified. Soundness does not depend on either.
    """
    parts = []
    with attacking(model, "eval"):
        for part in rows_of(x, batch_size):
            sample = x[part].to(dtype_of(model, x))
            _, lead, grad = loss_and_gradient(model, sample, y[part], margin)
            distance = first_order_distance(lead, grad, norm).double()
            distance = torch.where(lead < 0, distance, torch.zeros_like(distance))
            parts.append(torch.stack((-lead.double(), distance)))
    ahead, distance = torch.cat(parts, dim=1)
    return ahead, distance
