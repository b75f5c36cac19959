"""Estimate the time and memory of a run from a few measured steps of its network on this
machine."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.modes import attacking
from attacks.network import logits_of
from robustprune.bounds import certified_radius
from robustprune.certify.issue import REACH
from robustprune.measure.accuracy import CURVE
from robustprune.minmax import Natural, Objective
from robustprune.minmax.sharpness import loss_of_step
from robustprune.pipeline.fit import optimizer_of
from robustprune.pipeline.measure import test_examples
from robustprune.pipeline.plan import measuring_passes, planned_trainings, text_queries
from robustprune.pipeline.run_certificates import certified_examples
from robustprune.pipeline.shared import Run

#: seconds after which a measurement is not repeated
PATIENCE = 2.0
_REPEATS = 5
#: the number of examples of a first test, which shows whether a whole batch takes too long
_FEW = 8


@dataclass(frozen=True)
class Stage:
    """A part of the run: its number of steps (or of passes of one example), and its seconds. The
    time of measuring is a loose upper bound, because attacks stop when they succeed."""

    name: str
    steps: int
    seconds: float
    training: bool = False


@dataclass(frozen=True)
class Estimate:
    """The time and memory of a run if nothing ends early. So it is an overestimate rather than not.

    Attributes:
        stages: the trainings in order, then measuring and certifying.
        parameters: the number of parameters of the network.
        step: seconds of one training step with the (natural, robust) objective, at the config's
            batch size.
        host_bytes: the largest memory of this process during the measurement, with data and torch;
            None if the system does not tell.
        device_bytes: the largest memory on the accelerator; None on the CPU.
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
    """Time a few steps of each kind and multiply. Nothing is written.

    Trainings, attacks and certificates are counted at their full length, although attacks that
    succeed and trainings whose patience ends stop sooner. Loading, the search's own work on masks
    and the report are not counted.

    Raises:
        ValueError: a batch does not fit the network.
    """
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    robust, _ = replace(run, teacher=run.fresh_model()).robust(1, "estimate")
    steps = {"natural": _step_seconds(run, Natural()), "robust": _step_seconds(run, robust)}
    # free training repeats each batch this number of times
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
    """Return the seconds of one training step on a batch of the config's size."""
    model = run.fresh_model().train()
    moving = list(model.parameters())
    optimizer = optimizer_of(run.config.adversarial).build(moving)
    x, y = (part.to(run.device) for part in next(iter(run.loader())))

    def step(xs: Tensor, ys: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with loss_of_step(objective, model, moving, xs, ys, torch.inf) as loss:
            loss(model).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _batch_seconds(step, x, y)


def _pass_seconds(run: Run) -> tuple[float, float]:
    """Return the seconds per example of (a forward pass, a forward and a backward pass)."""
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
    networks = 1 + len(section.also)
    x, _ = certified_examples(run.config, run.task)
    x = x.to(run.device)
    stages = []
    if section.method != "none":
        model: nn.Module = run.fresh_model().eval()
        with torch.no_grad():
            # a correctly classified example takes longer
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

        examples = networks * len(x)
        stages.append(Stage(f"certifying, {section.method}", examples, examples * _median(certify)))
    samples = networks * (section.n0 + section.n) * len(x)
    for name, asked in (("smoothing", section.sigma), ("synonyms", section.synonyms)):
        if asked is not None:
            stages.append(Stage(f"certifying, {name}", samples, samples * forward))
    return stages


def _batch_seconds(step: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> float:
    """Return the seconds of one batch; if that takes too long, scale up the time of a few
    examples."""
    few = min(_FEW, len(x))
    first = _timed(lambda: step(x[:few], y[:few]), x.device)
    if first * len(x) / few > 10 * PATIENCE:
        return _timed(lambda: step(x[:few], y[:few]), x.device) * len(x) / few
    return _median(lambda: step(x, y), x.device)


def _median(work: Callable[[], None], device: torch.device | None = None) -> float:
    """Return the median seconds of a few repetitions, or of as many as PATIENCE allows."""
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
    """Return the largest memory that this process has used, in bytes."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)
