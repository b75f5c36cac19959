"""Sound lower bounds on margins and radii, for the real-valued function of a model's weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks import ThreatModel, evaluating
from robustprune.bounds.alpha import optimised
from robustprune.bounds.checks import BoundMethod, check_call, check_model, check_trace, rows_of
from robustprune.bounds.graph import BoundGraph, trace
from robustprune.bounds.input_set import InputSet, input_set
from robustprune.bounds.interval import sweep
from robustprune.bounds.linear import least, least_by_intervals, tightened, tightened_all
from robustprune.bounds.precision import precision_of
from robustprune.bounds.program import Program
from robustprune.bounds.rounding import plain_arithmetic
from robustprune.bounds.specification import by_class, margins_over_others


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
    y = check_call(x, y, threat, method, steps, batch_size)

    def bound(program: Program, part: Tensor) -> Tensor:
        A = margins_over_others(y[part], program)
        inputs = input_set(x[part], threat.select(part), program.dtype, program.precision)
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
    check_call(x, x.new_zeros(len(x)).long(), threat, method, steps, batch_size)

    def bound(program: Program, part: Tensor) -> Tensor:
        classes = program.nodes[program.output].shape[0]
        one = torch.eye(classes, dtype=program.dtype, device=x.device)
        inputs = input_set(x[part], threat.select(part), program.dtype, program.precision)
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

    "crown-ibp" goes first, and costlier methods see only the examples that it leaves open.  Args
    and raises as ``margin_bounds``.

    Returns:
        (N,), bool; False where x itself is misclassified.
    """
    y = check_call(x, y, threat, method, steps, batch_size)
    graph = trace(model)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    attempts: tuple[BoundMethod, ...]
    attempts = (method,) if method in ("ibp", "crown-ibp") else ("crown-ibp", method)
    for attempt in attempts:
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


def _lower_bounds(
    program: Program, inputs: InputSet, A: Tensor, method: BoundMethod, steps: int
) -> Tensor:
    """Lower bounds of ⟨A_ns, logits⟩, (N, S): the best of ``method`` and all before it."""
    known = sweep(program, inputs, exact=tightened_all)
    best = least_by_intervals(known, A)
    if method == "ibp":
        return best
    best = torch.fmax(best, least(known, A, program.output))
    if method == "crown-ibp":
        return best
    known = sweep(program, inputs, exact=tightened_all, tighten=tightened)
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
        check_model(graph.model, x.device)
        precision = precision_of(graph.model, x.dtype)
        program = graph.program(sample.double(), precision=precision)
        check_trace(graph, program, sample)
        return torch.cat([bound(program, part) for part in rows_of(x, batch_size)])
