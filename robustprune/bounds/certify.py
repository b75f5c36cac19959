"""Sound lower bounds on margins, of the network as it is evaluated in its own precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks import ThreatModel, evaluating
from robustprune.bounds import linear
from robustprune.bounds.alpha import optimised
from robustprune.bounds.checks import BoundMethod, check_call, check_model, check_trace, rows_of
from robustprune.bounds.graph import BoundGraph, trace
from robustprune.bounds.input_set import InputSet, input_set
from robustprune.bounds.interval import sweep
from robustprune.bounds.linear import (
    least_by_intervals,
    least_in_parts,
    tightened,
    tightened_all,
)
from robustprune.bounds.precision import precision_of
from robustprune.bounds.program import Program
from robustprune.bounds.progress import OnProgress, Progress
from robustprune.bounds.rounding import plain_arithmetic
from robustprune.bounds.specification import by_class, margins_over_others

#: share of the work of a costly method that "crown-ibp" before it takes
FIRST = 0.02


def margin_bounds(
    model: nn.Module | BoundGraph,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    method: BoundMethod = "crown",
    steps: int = 20,
    batch_size: int | None = None,
    on_progress: OnProgress | None = None,
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
        batch_size: examples bounded at a time at most; fewer, and not all classes at once, where
            all would need much more than 1 GiB beside the network (see ``linear.CHUNK``).
        on_progress: is told the share of the work that is done, from 0 to 1 and never falling,
            after every few neurons; stable neurons count as work, but take no time.

    Returns:
        (N, C), float64, ∞ at j = y: ``.amin(1)`` is the worst margin.

    Raises:
        ValueError: an operation without bounds; x, y as in ``attacks.inputs``; unknown method.
    """
    y = check_call(x, y, threat, method, steps, batch_size)

    def bound(program: Program, part: Tensor, progress: Progress) -> Tensor:
        A = margins_over_others(y[part], program)
        inputs = input_set(x[part], threat.select(part), program.dtype, program.precision)
        lower = _lower_bounds(program, inputs, A, method, steps, progress)
        return by_class(lower, y[part], own=torch.inf)

    return _in_batches(bound, model, x, batch_size, Progress(on_progress))


def output_bounds(
    model: nn.Module | BoundGraph,
    x: Tensor,
    threat: ThreatModel,
    *,
    method: BoundMethod = "crown",
    steps: int = 20,
    batch_size: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the logits over all inputs that ``threat`` allows.

    Args, raises: as ``margin_bounds``.

    Returns:
        lower, upper: (N, C), float64.
    """
    check_call(x, x.new_zeros(len(x)).long(), threat, method, steps, batch_size)

    def bound(program: Program, part: Tensor, progress: Progress) -> Tensor:
        classes = program.nodes[program.output].shape[0]
        one = torch.eye(classes, dtype=program.dtype, device=x.device)
        inputs = input_set(x[part], threat.select(part), program.dtype, program.precision)
        A = torch.cat((one, -one)).unsqueeze(0)
        return _lower_bounds(program, inputs, A, method, steps, progress)

    both = _in_batches(bound, model, x, batch_size, Progress(on_progress))
    lower, upper = both.chunk(2, dim=1)
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
    on_progress: OnProgress | None = None,
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
    progress = Progress(on_progress)
    for number, attempt in enumerate(attempts):
        left = (~done).nonzero().squeeze(1)
        if len(left) == 0:
            break
        # the first takes next to nothing
        begin = FIRST * number
        stretch = progress.part(begin, 1 if number == len(attempts) - 1 else FIRST)
        bounds = margin_bounds(
            graph,
            x[left],
            y[left],
            threat.select(left),
            method=attempt,
            steps=steps,
            batch_size=batch_size,
            on_progress=stretch.told_within(),
        )
        done[left] = bounds.amin(1) > 0
    progress.done()
    return done


def _lower_bounds(
    program: Program,
    inputs: InputSet,
    A: Tensor,
    method: BoundMethod,
    steps: int,
    progress: Progress,
) -> Tensor:
    """Lower bounds of ⟨A_ns, logits⟩, (N, S): the best of ``method`` and all before it."""
    known = sweep(program, inputs, exact=tightened_all)
    best = least_by_intervals(known, A)
    if method == "ibp":
        return best
    best = torch.fmax(best, least_in_parts(known, A, program.output))
    if method == "crown-ibp":
        return best
    ascent = 0.0 if method == "crown" else program.ascent(A.shape[1], steps)
    known = sweep(
        program,
        inputs,
        exact=tightened_all,
        tighten=tightened,
        progress=progress.part(0, 1 - ascent),
    )
    best = torch.fmax(best, least_by_intervals(known, A))
    best = torch.fmax(best, least_in_parts(known, A, program.output))
    if method == "crown":
        return best
    return optimised(known, A, best, steps=steps, progress=progress.part(1 - ascent, 1))


def _in_batches(
    bound: Callable[[Program, Tensor, Progress], Tensor],
    model: nn.Module | BoundGraph,
    x: Tensor,
    batch_size: int | None,
    progress: Progress,
) -> Tensor:
    """``bound(program, rows, …)`` for all rows of x, as many at a time as memory allows."""
    graph = trace(model)
    with plain_arithmetic(), evaluating(graph.model):
        sample = torch.cat((x[:2], x.new_zeros(2, *x.shape[1:])))[:2]
        check_model(graph.model, x.device)
        precision = precision_of(graph.model, x.dtype)
        program = graph.program(sample.double(), precision=precision)
        check_trace(graph, program, sample)
        most = _examples_at_once(program)
        parts = rows_of(x, most if batch_size is None else min(most, batch_size))
        found = []
        for number, part in enumerate(parts):
            stretch = progress.step(number, len(parts))
            found.append(bound(program, part, stretch))
            stretch.done()
        return torch.cat(found)


def _examples_at_once(program: Program) -> int:
    """So many that neither their values nor the coefficients of their margins exceed CHUNK."""
    classes = program.nodes[program.output].shape[0]
    # an example's boxes and errors of all nodes; the margins are made of integers first
    return max(1, linear.CHUNK // max(4 * program.entries, 2 * classes * classes))
