"""Compute proven radii of many examples, with an estimate of the time beforehand."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks import ThreatModel
from attacks.threat import Bounds
from robustprune.bounds import BoundMethod, certified_radius, margin_bounds
from robustprune.certify.certificate import Norm
from robustprune.run.progress import Progress, duration
from robustprune.run.runtime import is_first, merged, own_batches

#: if the proofs take at least this number of seconds, their time is printed beforehand
_LONG = 60.0
#: the seconds after which the time of a bound is estimated before it is there
PATIENCE = 10.0
#: the methods that take little time, the cheapest first
CHEAP: tuple[BoundMethod, ...] = ("ibp", "crown-ibp")
#: the number of values of ε that a search for a radius usually tries
_USUAL = 4
#: the product of weights and examples in a batch of the slow methods; large networks have batches
#: of one example, so that the progress bar moves
_BATCH = 2**23


def proven_radii(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    bounds: Bounds,
    method: BoundMethod,
    eps_max: float,
    rounds: int,
    steps: int,
    batch_size: int | None,
    title: str,
    quiet: bool,
) -> Tensor:
    """Return `bounds.certified_radius` of (x, y), (N,) float64. Several ranks share the batches.

    Unless `quiet`, one bound of one example is timed first, and an upper estimate of the whole time
    is printed if it is over a minute, with what cheaper methods take.

    Raises:
        ValueError: as in `bounds.certified_radius`.
    """
    size = rows_at_a_time(model, method, batch_size or max(len(x), 1))
    batches = own_batches(len(x), size)
    if not quiet and is_first() and len(x):
        _foretell(model, x, y, norm, bounds, method, eps_max, rounds, steps)
    radius = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    total = sum(rows.stop - rows.start for rows in batches) * rounds
    with Progress(total, title=title, unit="bound", quiet=quiet) as told:
        for rows in batches:
            radius[rows] = certified_radius(
                model,
                x[rows],
                y[rows],
                norm=norm,
                bounds=bounds,
                method=method,
                eps_max=eps_max,
                rounds=rounds,
                steps=steps,
                on_progress=_counted(told, (rows.stop - rows.start) * rounds),
            )
    return merged(radius)


def _counted(told: Progress, units: int) -> Callable[[float], None]:
    """Return a function that reports a share of the next `units` units."""
    begin = told.done

    def on_progress(share: float) -> None:
        told.update(begin + int(share * units) - told.done)

    return on_progress


def rows_at_a_time(model: nn.Module, method: BoundMethod, batch_size: int) -> int:
    """Return how many examples are in a batch: fewer for a large network and a slow method."""
    if method in ("ibp", "crown-ibp"):
        return batch_size
    weights = sum(parameter.numel() for parameter in model.parameters())
    return max(1, min(batch_size, _BATCH // max(weights, 1)))


def _foretell(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    bounds: Bounds,
    method: BoundMethod,
    eps_max: float,
    rounds: int,
    steps: int,
) -> None:
    """Print how long it takes and what cheaper methods take, if that is long.

    One bound of one example is timed. Where this takes long itself, its whole time is estimated
    from the share that is done after PATIENCE seconds, in which stable neurons count as work.
    """
    threat = ThreatModel(norm, eps_max / 1000, bounds)
    trials, said = min(rounds, _USUAL), False
    cheaper = CHEAP[: CHEAP.index(method)] if method in CHEAP else CHEAP

    def seconds(which: BoundMethod, on_progress: Callable[[float], None] | None = None) -> float:
        start = time.monotonic()
        margin_bounds(
            model, x[:1], y[:1], threat, method=which, steps=steps, on_progress=on_progress
        )
        return time.monotonic() - start

    others = [f"{name} takes {duration(seconds(name) * trials)}" for name in reversed(cheaper)]

    def say(one: float) -> None:
        each = one * trials
        if each * len(x) >= _LONG:
            affordable = f"; {' and '.join(others)} per example" if others else ""
            print(
                f"{method} takes up to {duration(each)} per example, {duration(each * len(x))} for "
                f"{len(x)} of them{affordable}",
                file=sys.stderr,
                flush=True,
            )

    begin = time.monotonic()

    def on_progress(share: float) -> None:
        nonlocal said
        passed = time.monotonic() - begin
        if not said and passed >= PATIENCE and share > 0:
            said = True
            say(passed / share)

    whole = seconds(method, on_progress)
    if not said:
        say(whole)
