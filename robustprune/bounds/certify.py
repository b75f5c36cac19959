"""Sound lower bounds on margins and radii, for the real-valued function of a model's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attacks import ThreatModel, attacking, evaluating
from attacks.geometry import check_norm
from attacks.inputs import check_batch, check_values, loss_and_gradient
from attacks.losses import margin
from attacks.nearest import farthest, first_order_distance
from attacks.threat import Bounds, check_bounds
from robustprune.bounds.alpha import optimised
from robustprune.bounds.graph import BoundGraph, trace
from robustprune.bounds.input_set import InputSet, input_set
from robustprune.bounds.interval import sweep
from robustprune.bounds.linear import least, least_by_intervals, tightened, tightened_all
from robustprune.bounds.program import Program
from robustprune.bounds.rounding import plain_arithmetic
from robustprune.bounds.specification import by_class, margins_over_others

BoundMethod = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[BoundMethod, ...] = get_args(BoundMethod)
#: relative difference beyond which a trace does not compute what the model computes
SAME = 1e-3


def margin_bounds(
    model: nn.Module | BoundGraph,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    method: BoundMethod = "crown",
    steps: int = 20,
    batch_size: int | None = None,
) -> Tensor:
    """Lower bounds of min (z_y − z_j) over all inputs that ``threat`` allows, for every class j.

    The model is bounded in eval mode, in float64, with all rounding errors paid for (see
    ``bounds.rounding``).  A method is never below the ones before it in this list, for the best
    of them counts:

    - "ibp": intervals (arXiv 1810.12715).
    - "crown-ibp": one linear bound over intervals (arXiv 1906.06316).
    - "crown": linear bounds of every nonlinearity's input too (arXiv 1811.00866).
    - "alpha-crown": the slopes of the last pass optimised (arXiv 2011.13824).

    Args:
        model: a module of supported layers, or what ``trace`` made of it.
        x: (N, …); y: (N,).
        steps: of the ascent of "alpha-crown".
        batch_size: examples bounded at a time; None for all.

    Returns:
        (N, C), float64, ∞ at j = y: ``.amin(1)`` is the worst margin.

    Raises:
        ValueError: an operation without bounds; x, y as in ``attacks.inputs``; unknown method.
    """
    y = _check(x, y, threat, method, steps, batch_size)

    def bound(program: Program, part: Tensor) -> Tensor:
        A = margins_over_others(y[part], program)
        inputs = input_set(x[part], threat.select(part), program.dtype, rounding=True)
        return by_class(_lower_bounds(program, inputs, A, method, steps), y[part], own=torch.inf)

    return _in_batches(bound, model, x, batch_size)


def output_bounds(
    model: nn.Module | BoundGraph,
    x: Tensor,
    threat: ThreatModel,
    *,
    method: BoundMethod = "crown",
    steps: int = 20,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the logits over all inputs that ``threat`` allows.

    Args, raises: as ``margin_bounds``.

    Returns:
        lower, upper: (N, C), float64.
    """
    _check(x, x.new_zeros(len(x)).long(), threat, method, steps, batch_size)

    def bound(program: Program, part: Tensor) -> Tensor:
        classes = program.nodes[program.output].shape[0]
        one = torch.eye(classes, dtype=program.dtype, device=x.device)
        inputs = input_set(x[part], threat.select(part), program.dtype, rounding=True)
        A = torch.cat((one, -one)).unsqueeze(0)
        return _lower_bounds(program, inputs, A, method, steps)

    lower, upper = _in_batches(bound, model, x, batch_size).chunk(2, dim=1)
    return lower, -upper


def certified(
    model: nn.Module | BoundGraph,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    method: BoundMethod = "crown",
    steps: int = 20,
    batch_size: int | None = None,
) -> Tensor:
    """Whether no allowed input is classified other than y: all margin bounds positive.

    Cheaper methods go first, and ``method`` sees only the examples that they leave open.  Args
    and raises as ``margin_bounds``.

    Returns:
        (N,), bool; False where x itself is misclassified.
    """
    y = _check(x, y, threat, method, steps, batch_size)
    graph = trace(model)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for attempt in METHODS[: METHODS.index(method) + 1]:
        left = (~done).nonzero().squeeze(1)
        if len(left) == 0:
            break
        bounds = margin_bounds(
            graph,
            x[left],
            y[left],
            threat.select(left),
            method=attempt,
            steps=steps,
            batch_size=batch_size,
        )
        done[left] = bounds.amin(1) > 0
    return done


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
) -> Tensor:
    """A lower bound of r* for every example: the largest ε tried at which it is certified.

    The first ε is the distance to the boundary if the network were linear around x; then ε
    doubles until it is not certified, or until the ball holds all that ``bounds`` allow, and
    bisection follows.

    Args:
        norm, bounds: of the threat model.
        eps_max: no ε beyond it is tried.
        rounds: values of ε tried in all; each halves the gap once there is one.
        others: as ``margin_bounds``.

    Returns:
        (N,), float64; 0 where x is misclassified or no ε tried was certified.

    Raises:
        ValueError: as ``margin_bounds``; eps_max or rounds out of range.
    """
    check_norm(norm)
    check_bounds(bounds)
    if not eps_max > 0 or rounds < 1:
        raise ValueError(f"eps_max={eps_max} must be positive and rounds={rounds} at least 1")
    threat = ThreatModel(norm, 0.0, bounds)
    y = _check(x, y, threat, method, steps, batch_size)
    graph = trace(model)
    first = _distance_if_linear(graph.model, x, y, norm, batch_size)
    limit = farthest(x.double(), bounds, norm).clamp(max=eps_max)
    first = torch.minimum(first.nan_to_num(nan=1.0, posinf=1.0), limit)
    radius = torch.zeros_like(first)
    failed = torch.where(first > 0, torch.inf, 0.0).to(first)
    for _ in range(rounds):
        doubled = torch.minimum(torch.where(radius > 0, 2 * radius, first), limit)
        trial = torch.where(failed.isinf(), doubled, (radius + failed) / 2)
        open_ = ((trial > radius) & (trial < failed)).nonzero().squeeze(1)
        if len(open_) == 0:
            break
        sure = certified(
            graph,
            x[open_],
            y[open_],
            replace(threat, eps=trial[open_]),
            method=method,
            steps=steps,
            batch_size=batch_size,
        )
        radius[open_[sure]] = trial[open_[sure]]
        failed[open_[~sure]] = trial[open_[~sure]]
    return radius


def _distance_if_linear(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, batch_size: int | None
) -> Tensor:
    """Distance to the nearest class if the network were linear around x, (N,) float64.

    0 where misclassified.  Only a place to start: nothing sound rests on it.
    """
    parts = []
    with attacking(model, "eval"):
        for part in _rows(x, batch_size):
            sample = x[part].to(_dtype(model, x))
            _, lead, grad = loss_and_gradient(model, sample, y[part], margin)
            distance = first_order_distance(lead, grad, norm).double()
            parts.append(torch.where(lead < 0, distance, torch.zeros_like(distance)))
    return torch.cat(parts)


def _lower_bounds(
    program: Program, inputs: InputSet, A: Tensor, method: BoundMethod, steps: int
) -> Tensor:
    """Lower bounds of ⟨A_ns, logits⟩, (N, S): the best of ``method`` and all before it."""
    known = sweep(program, inputs, rounding=True, exact=tightened_all)
    if not all(bool(end.isfinite().all()) for end in known.intervals[program.output]):
        raise ValueError(
            "the bounds overflow: weights are infinite or NaN, or the network is far too deep for "
            "intervals at this eps"
        )
    best = least_by_intervals(known, A)
    if method == "ibp":
        return best
    best = torch.fmax(best, least(known, A, program.output))
    if method == "crown-ibp":
        return best
    known = sweep(program, inputs, rounding=True, exact=tightened_all, tighten=tightened)
    best = torch.fmax(best, least_by_intervals(known, A))
    best = torch.fmax(best, least(known, A, program.output))
    return best if method == "crown" else optimised(known, A, best, steps=steps)


def _in_batches(
    bound: Callable[[Program, Tensor], Tensor],
    model: nn.Module | BoundGraph,
    x: Tensor,
    batch_size: int | None,
) -> Tensor:
    """``bound(program, rows)`` for all rows of x, ``batch_size`` at a time."""
    graph = trace(model)
    with plain_arithmetic(), evaluating(graph.model):
        sample = torch.cat((x[:2], x.new_zeros(2, *x.shape[1:])))[:2]
        program = graph.program(sample.double())
        _check_trace(graph, sample)
        return torch.cat([bound(program, part) for part in _rows(x, batch_size)])


def _rows(x: Tensor, batch_size: int | None) -> list[Tensor]:
    """Indices of the examples, ``batch_size`` at a time; one empty part for an empty batch."""
    rows = torch.arange(len(x), device=x.device)
    step = batch_size or max(len(x), 1)
    return [rows[begin : begin + step] for begin in range(0, max(len(x), 1), step)]


def _check_trace(graph: BoundGraph, sample: Tensor) -> None:
    """Raise ValueError where the trace does not compute what the model computes."""
    sample = sample.to(_dtype(graph.model, sample))
    traced, logits = graph.program(sample).logits, graph.model(sample)
    assert traced is not None
    allowed = max(SAME, 100 * torch.finfo(logits.dtype).eps) * (1 + logits.abs().amax())
    if bool((logits - traced).abs().amax() > allowed):
        raise ValueError(
            "the trace of the model's operations computes other logits than the model: hooks, "
            "operations in place on a value that is used again, or randomness; remove them"
        )


def _dtype(model: nn.Module, x: Tensor) -> torch.dtype:
    """What the model computes in."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)


def _check(
    x: Tensor, y: Tensor, threat: ThreatModel, method: str, steps: int, batch_size: int | None
) -> Tensor:
    """Check what the public functions share; return y as int64."""
    y = check_batch(x, y)
    check_values(x, threat.bounds)
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(METHODS)}")
    if steps < 0:
        raise ValueError(f"steps={steps} must be at least 0")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1, or None for all at once")
    if isinstance(threat.eps, Tensor) and len(threat.eps) != len(x):
        raise ValueError(f"eps holds {len(threat.eps)} values for {len(x)} examples")
    return y
