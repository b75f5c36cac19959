"""What a run will take, from a few measured steps of its own network on this machine."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.modes import attacking
from attacks.network import logits_of
from robustprune.bounds import certified_radius
from robustprune.certify.issue import REACH
from robustprune.measure.accuracy import CURVE
from robustprune.minmax import Natural, Objective
from robustprune.pipeline.fit import optimizer_of
from robustprune.pipeline.measure import test_examples
from robustprune.pipeline.plan import measuring_passes, planned_trainings, text_queries
from robustprune.pipeline.run_certificates import certified_examples
from robustprune.pipeline.shared import Run

#: seconds after which a measurement is not repeated
PATIENCE = 2.0
_REPEATS = 5
#: examples that a first look takes, to see whether a whole batch would take too long
_FEW = 8


@dataclass(frozen=True)
class Stage:
    """A part of the run: how many steps (or passes of an example), and seconds in all; those of
    measuring are a bound that is mostly far off, as attacks stop at what they break."""

    name: str
    steps: int
    seconds: float
    training: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a run will take if nothing ends early, so rather more than less.

    Attributes:
        stages: trainings in order, then measuring and certifying.
        parameters: of the network.
        step: seconds of one step on (natural, robust) objective, at the config's batch size.
        host_bytes: most memory that this process held while it measured, data, torch and all;
            None where the system does not tell.
        device_bytes: most memory on the accelerator; None on the CPU.
    """

    stages: tuple[Stage, ...]
    parameters: int
    step: tuple[float, float]
    host_bytes: int | None
    device_bytes: int | None

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def training_seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages if stage.training)


def estimate(run: Run) -> Estimate:
    """Time a few steps of each kind and multiply; nothing is written.

    Counted are trainings, attacks and certificates at their full length: attacks that succeed
    and trainings that lose patience stop sooner. Not counted are loading, the search's own work
    on masks, the report.

    Raises:
        ValueError: a batch that does not fit the network.
    """
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    robust, _ = run.robust(1, "estimate")
    steps = {"natural": _step_seconds(run, Natural()), "robust": _step_seconds(run, robust)}
    # replayed batches of free training come so often in a row
    repeated = run.config.objective.replays if run.config.objective.name == "free" else 1
    batches = {"natural": len(run.loader()), "robust": repeated * len(run.loader())}
    forward, gradient = _pass_seconds(run)
    stages, trainings = [], planned_trainings(run.config)
    held = 0 if run.held_out is None else len(run.held_out)
    for training in trainings:
        kind = "natural" if training.kind == "natural" else "robust"
        count = training.epochs * batches[kind] + training.batches
        seconds = count * steps[kind]
        if kind == "robust":
            seconds += training.epochs * held * (forward + run.config.inner.steps * gradient)
        stages.append(Stage(training.name, count, seconds, training=True))
    x, _ = test_examples(run)
    measured = sum(training.measured for training in trainings)
    passes = measuring_passes(
        run.config,
        models=measured,
        n=len(x),
        classes=run.task.num_classes,
        curve=len(CURVE),
    )
    seconds = passes.forward * forward + passes.gradient * gradient
    stages.append(Stage("measuring", passes.forward + passes.gradient, seconds))
    if run.config.evaluation.text:
        queries = text_queries(run.config, models=measured, n=len(run.task.test))
        stages.append(Stage("attacking text", queries, queries * forward))
    stages += _certifying(run, forward)
    device = torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else None
    return Estimate(
        tuple(stages),
        sum(p.numel() for p in run.fresh_model().parameters()),
        (steps["natural"], steps["robust"]),
        _peak_memory(),
        device,
    )


def _step_seconds(run: Run, objective: Objective) -> float:
    """One step of training on a batch of the config's size."""
    model = run.fresh_model().train()
    optimizer = optimizer_of(run.config.adversarial).build(list(model.parameters()))
    x, y = (part.to(run.device) for part in next(iter(run.loader())))

    def step(xs: Tensor, ys: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(model, xs, ys, torch.inf).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _batch_seconds(step, x, y)


def _pass_seconds(run: Run) -> tuple[float, float]:
    """(forward, forward and backward to the input) of one example, in batches as measured."""
    model = run.fresh_model()
    x, y = (part[: run.config.evaluation.batch_size] for part in test_examples(run))

    def forward(xs: Tensor, _: Tensor) -> None:
        with torch.no_grad():
            logits_of(model, xs)

    def gradient(xs: Tensor, ys: Tensor) -> None:
        leaf = xs.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(logits_of(model, leaf), ys), leaf)

    with attacking(model, "eval"):
        return _batch_seconds(forward, x, y) / len(x), _batch_seconds(gradient, x, y) / len(x)


def _certifying(run: Run, forward: float) -> list[Stage]:
    section = run.config.certify
    x, _ = certified_examples(run.config, run.task)
    x = x.to(run.device)
    stages = []
    if section.method != "none":
        model: nn.Module = run.fresh_model().eval()
        with torch.no_grad():
            # an example that is answered rightly takes longer
            y = logits_of(model, x[:1]).argmax(1)

        def certify() -> None:
            certified_radius(
                model,
                x[:1],
                y,
                norm=run.threat.norm,
                bounds=run.threat.bounds,
                method=section.method,  # type: ignore[arg-type]
                eps_max=REACH * float(run.threat.eps),
            )

        stages.append(Stage(f"certifying, {section.method}", len(x), len(x) * _median(certify)))
    samples = (section.n0 + section.n) * len(x)
    for name, asked in (("smoothing", section.sigma), ("synonyms", section.synonyms)):
        if asked is not None:
            stages.append(Stage(f"certifying, {name}", samples, samples * forward))
    return stages


def _batch_seconds(step: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> float:
    """Of one batch; where that would take too long, of a few examples, scaled up."""
    few = min(_FEW, len(x))
    first = _timed(lambda: step(x[:few], y[:few]), x.device)
    if first * len(x) / few > 10 * PATIENCE:
        return _timed(lambda: step(x[:few], y[:few]), x.device) * len(x) / few
    return _median(lambda: step(x, y), x.device)


def _median(work: Callable[[], None], device: torch.device | None = None) -> float:
    """Median seconds after a first call, of a few repetitions or as many as patience allows."""
    started = time.perf_counter()
    times: list[float] = []
    first = _timed(work, device)
    while len(times) < _REPEATS and time.perf_counter() - started < PATIENCE:
        times.append(_timed(work, device))
    return statistics.median(times) if times else first


def _timed(work: Callable[[], None], device: torch.device | None = None) -> float:
    started = time.perf_counter()
    work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _peak_memory() -> int | None:
    """Most memory that this process has held, in bytes."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)
