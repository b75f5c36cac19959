"""Sound lower bounds on margins, for the network as it is evaluated in its own precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks import ThreatModel, evaluating
from robustprune.bounds import linear
from robustprune.bounds.algebra import Interval
from robustprune.bounds.alpha import optimised
from robustprune.bounds.checks import BoundMethod, check_call, check_model, check_trace, rows_of
from robustprune.bounds.forward import forward, pays
from robustprune.bounds.graph import BoundGraph, trace
from robustprune.bounds.input_set import InputSet, input_set
from robustprune.bounds.interval import Sweep, sweep
from robustprune.bounds.last import from_above, last_rectifier, slopes_at_centre
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

#: the share of the work that the first method, "crown-ibp", takes before a costly one
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
    """Return lower bounds of min (z_y − z_j) over all allowed inputs, for every class j.

    z are the logits. The model is bounded in eval mode and in float64, and the bounds account for
    all rounding errors (see ``bounds.rounding``). A method is never worse than those before it in
    this list, because the best of them is returned:

    - "ibp": intervals (arXiv 1810.12715).
    - "crown-ibp": one linear bound over intervals (arXiv 1906.06316).
    - "crown": linear bounds also of every nonlinearity's input (arXiv 1811.00866).
    - "alpha-crown": optimised slopes in the last pass (arXiv 2011.13824).

    Args:
        model: a module of supported layers, or the result of ``trace`` for it.
        x: (N, …) inputs; y: (N,) class indices.
        steps: the number of gradient steps of "alpha-crown", at least 0.
        threat: what the adversary may do.
        method: one of the list above.
        batch_size: the largest number of examples that are bounded at a time; None for no such
            limit. There are fewer, and not all classes at once, if all would need much more than 1
            GiB beside the network (see ``linear.CHUNK``).
        on_progress: a function that is called with the share of the work that is done, from 0 to 1
            and never falling, after every few neurons. Stable neurons count as work, although they
            take no time.

    Returns:
        (N, C), float64, with ∞ at j = y, so that ``.amin(1)`` is the worst margin.

    Raises:
        ValueError: an operation has no bounds, x or y is invalid (see ``attacks.inputs``), or the
            method is unknown.
    """
    y = check_call(x, y, threat, method, steps, batch_size)
    how = Settings(method, steps, batch_size)
    with ready(model, x) as program:
        return margins_of(program, x, y, threat, how, Progress(on_progress))


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
    """Return lower and upper bounds of the logits over all inputs that ``threat`` allows.

    Arguments and errors are those of ``margin_bounds``.

    Returns:
        lower, upper: (N, C), float64.
    """
    check_call(x, x.new_zeros(len(x)).long(), threat, method, steps, batch_size)

    how = Settings(method, steps, batch_size)
    with ready(model, x) as program:
        classes = program.nodes[program.output].shape[0]
        one = torch.eye(classes, dtype=program.dtype, device=x.device)
        A = torch.cat((one, -one)).unsqueeze(0)

        def bound(part: Tensor, progress: Progress) -> Tensor:
            inputs = input_set(x[part], threat.select(part), program.dtype, program.precision)
            return _lower_bounds(program, inputs, A, how, progress)

        both = _in_batches(bound, program, x, batch_size, Progress(on_progress))
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
    """Return whether no allowed input is classified other than y: all margin bounds are positive.

    "crown-ibp" is tried first, and costlier methods are used only for the examples that it does not
    certify. Arguments and errors are those of ``margin_bounds``.

    Returns:
        (N,), bool; False where x itself is misclassified.
    """
    y = check_call(x, y, threat, method, steps, batch_size)
    with ready(model, x) as program:
        how = Settings(method, steps, batch_size)
        return proven(program, x, y, threat, how, Progress(on_progress))


class Settings(NamedTuple):
    """The options of ``margin_bounds``."""

    method: BoundMethod
    steps: int
    batch_size: int | None


def proven(
    program: Program,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    how: Settings,
    progress: Progress,
) -> Tensor:
    """Do the work of ``certified`` for a program that is ``ready``."""
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    cheap = how.method in ("ibp", "crown-ibp")
    attempts: tuple[BoundMethod, ...]
    attempts = (how.method,) if cheap else ("crown-ibp", how.method)
    for number, attempt in enumerate(attempts):
        left = (~done).nonzero().squeeze(1)
        if len(left) == 0:
            break
        # the first method takes very little time
        begin = FIRST * number
        stretch = progress.part(begin, 1 if number == len(attempts) - 1 else FIRST)
        again = how._replace(method=attempt)
        bounds = margins_of(program, x[left], y[left], threat.select(left), again, stretch)
        done[left] = bounds.amin(1) > 0
    progress.done()
    return done


def margins_of(
    program: Program,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    how: Settings,
    progress: Progress,
) -> Tensor:
    """Do the work of ``margin_bounds`` for a program that is ``ready``."""

    def bound(part: Tensor, progress: Progress) -> Tensor:
        A = margins_over_others(y[part], program)
        inputs = input_set(x[part], threat.select(part), program.dtype, program.precision)
        found = _lower_bounds(program, inputs, A, how, progress)
        return by_class(found, y[part], own=torch.inf)

    return _in_batches(bound, program, x, how.batch_size, progress)


def _lower_bounds(
    program: Program,
    inputs: InputSet,
    A: Tensor,
    how: Settings,
    progress: Progress,
) -> Tensor:
    """Return lower bounds of ⟨A_ns, logits⟩, (N, S): the best of ``method`` and all before it."""
    method, steps = how.method, how.steps
    known = sweep(program, inputs, exact=tightened_all)
    best = least_by_intervals(known, A)
    if method == "ibp":
        return best
    best = torch.fmax(best, least_in_parts(known, A, program.output))
    if method == "crown-ibp":
        return best
    ascent = 0.0 if method == "crown" else program.ascent(A.shape[1], steps)
    last = last_rectifier(program)
    above = None if last is None else from_above(program, A, last)

    def tighten(known: Sweep, position: int, wanted: Tensor) -> Interval:
        if pays(program, position):
            return forward(known, position)
        if last is not None and above is not None and position == program.nodes[last].inputs[0]:
            wanted = wanted & above
        return tightened(known, position, wanted)

    known = sweep(
        program,
        inputs,
        exact=tightened_all,
        tighten=tighten,
        progress=progress.part(0, 1 - ascent),
    )
    best = torch.fmax(best, least_by_intervals(known, A))
    best = torch.fmax(best, least_in_parts(known, A, program.output))
    if last is not None:
        choices = slopes_at_centre(known, last)
        best = torch.fmax(best, least_in_parts(known, A, program.output, choices=choices))
    if method == "crown":
        return best
    return optimised(known, A, best, steps=steps, progress=progress.part(1 - ascent, 1))


@contextmanager
def ready(model: nn.Module | BoundGraph, x: Tensor) -> Iterator[Program]:
    """Trace a model and compare the result with it; inside this context the model is in eval mode.

    Raises:
        ValueError: as in ``margin_bounds``, for the model.
    """
    graph = trace(model)
    with plain_arithmetic(), evaluating(graph.model):
        sample = torch.cat((x[:2], x.new_zeros(2, *x.shape[1:])))[:2]
        check_model(graph.model, x.device)
        precision = precision_of(graph.model, x.dtype)
        program = graph.program(sample.double(), precision=precision)
        check_trace(graph, program, sample)
        yield program


def _in_batches(
    bound: Callable[[Tensor, Progress], Tensor],
    program: Program,
    x: Tensor,
    batch_size: int | None,
    progress: Progress,
) -> Tensor:
    """Call ``bound(rows, …)`` for all rows of x, as many at a time as memory allows."""
    most = _examples_at_once(program)
    parts = rows_of(x, most if batch_size is None else min(most, batch_size))
    found = []
    for number, part in enumerate(parts):
        stretch = progress.step(number, len(parts))
        found.append(bound(part, stretch))
        stretch.done()
    return torch.cat(found)


def _examples_at_once(program: Program) -> int:
    """Return how many examples fit into CHUNK, with their values and the coefficients of
    margins."""
    classes = program.nodes[program.output].shape[0]
    # the boxes and errors of all nodes for one example; margins are built as integers first
    return max(1, linear.CHUNK // max(4 * program.entries, 2 * classes * classes))
