"""What a search step costs, against parameters, examples and attack steps K; measured and fitted.

    python -m benchmarks.scale                     # widths 8, 16, 32; checked against width 64
    python -m benchmarks.scale --widths 8 16 --check 32 --repeats 2

Each point is a robust scratch ticket search on a pre-activation ResNet-18 of some width, on random
images (3, 32, 32), in a process of its own, so that its peak memory is its own too. The fit is

    seconds a step  = c0 + B · (2K + 3) · (c1 · MACs + c2 · saved) + c3 · parameters
    bytes           = m0 + m1 · parameters + m2 · B · saved

with B examples a batch, MACs of one example's forward pass, and `saved` the bytes that autograd
keeps for one example, a measure of what moves through memory. An attack step is a forward and a
backward pass to the input (2 units), the step itself one more and a backward pass to input and
weights (3 units).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Point:
    """One measured search step; seconds are of CPU time, so that a shared machine tells little."""

    width: int
    batch: int
    steps: int
    parameters: int
    macs: int
    saved: int
    seconds: float
    bytes: int

    @property
    def units(self) -> int:
        """Passes of an example through the network, forward or back."""
        return self.batch * (2 * self.steps + 3)


def measure(width: int, batch: int, steps: int, repeats: int) -> Point:
    """The point, measured in this process."""
    import torch

    from attacks import PGD, ThreatModel
    from robustprune.measure.work import count_macs
    from robustprune.models import build_model
    from robustprune.models.build import ModelInputs
    from robustprune.search import find_scratch_ticket

    torch.manual_seed(0)
    model = build_model("preact_resnet18", ModelInputs((3, 32, 32), 10), options={"width": width})
    x, y = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10
    saved = saved_bytes(model, x) // batch
    attack = PGD(ThreatModel("linf", 8 / 255, (0.0, 1.0)), steps=steps)
    clock = [time.process_time()]
    find_scratch_ticket(
        model,
        [(x, y)],
        density=0.1,
        attack=attack,
        epochs=repeats + 1,
        quiet=True,
        on_epoch=lambda _: clock.append(time.process_time()),
    )
    # the first step warms up; the fastest of the others is the least disturbed
    seconds = min(after - before for before, after in itertools.pairwise(clock[1:]))
    return Point(
        width=width,
        batch=batch,
        steps=steps,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, x[:1])[0],
        saved=saved,
        seconds=seconds,
        bytes=_peak(),
    )


def saved_bytes(model: Any, x: Any) -> int:
    """What autograd keeps of one forward pass on x, weights aside."""
    import torch

    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(x)
    size = sum(size for place, size in kept.items() if place not in own)
    del output
    return size


def predict() -> str:
    """Work and memory of two large searches; seconds under assumed throughputs, not measured."""
    import torch
    from torchvision.models import resnet50

    from robustprune.measure.work import count_macs

    model, x = resnet50(), torch.rand(2, 3, 224, 224)
    macs, saved = count_macs(model, x)[0], saved_bytes(model, x) / 2
    parameters = sum(p.numel() for p in model.parameters())
    epochs, steps, images = 100, 3, 1_281_167
    work = 2.0 * macs * (2 * steps + 3) * images * epochs
    per_gpu = 128
    lines = [
        f"ResNet-50: {parameters:,} parameters, {macs / 1e9:.2f} GMACs, {saved / 1e6:.0f} MB saved "
        f"an image (float32)",
        f"  {epochs} epochs, K = {steps}: {work:.2e} FLOP; "
        f"state {16 * parameters / 1e9:.2f} GB a GPU, activations {per_gpu * saved / 1e9:.1f} GB "
        f"at {per_gpu} images a GPU (half of it in bfloat16)",
        *_hours(work, (50e12, 100e12, 200e12)),
    ]
    parameters, tokens = 7_000_000_000, 3 * 100_000 * 128
    work = 2.0 * parameters * (2 * steps + 3) * tokens
    lines += [
        f"7B language model: {tokens:,} tokens, K = {steps}: {work:.2e} FLOP",
        f"  weights in bfloat16 {2 * parameters / 1e9:.0f} GB, scores, gradients and momentum in "
        f"float32 {12 * parameters / 1e9:.0f} GB",
        *_hours(work, (100e12, 200e12, 400e12)),
    ]
    return "\n".join(lines)


def _hours(work: float, throughputs: tuple[float, ...], gpus: int = 8) -> list[str]:
    return [
        f"  at an assumed {t / 1e12:.0f} TFLOP/s a GPU on {gpus}: {work / t / gpus / 3600:.2f} h"
        for t in throughputs
    ]


def _peak() -> int:
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_apart(width: int, batch: int, steps: int, repeats: int) -> Point:
    """The point, measured in a process of its own."""
    named = ["--point", str(width), str(batch), str(steps), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "benchmarks.scale", *named]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return Point(**json.loads(done.stdout))


def fit(points: list[Point]) -> tuple[np.ndarray, np.ndarray]:
    """(c0, c1, c2, c3) and (m0, m1, m2), none below 0, by least squares of the relative error."""
    return _relative(_time_columns(points), [p.seconds for p in points]), _relative(
        _memory_columns(points), [float(p.bytes) for p in points]
    )


def _relative(columns: np.ndarray, values: list[float]) -> np.ndarray:
    target = np.array(values)
    scale = columns.max(0)  # columns differ by ten orders of magnitude
    found, _ = nnls(columns / scale / target[:, None], np.ones(len(target)))
    return found / scale


def _time_columns(points: list[Point]) -> np.ndarray:
    return np.array([[1.0, p.units * p.macs, p.units * p.saved, p.parameters] for p in points])


def _memory_columns(points: list[Point]) -> np.ndarray:
    return np.array([[1.0, p.parameters, p.batch * p.saved] for p in points])


def report(points: list[Point], check: Point) -> str:
    """The table, the fit, and what it says of the larger run, as Markdown."""
    time_fit, memory_fit = fit(points)
    lines = [
        "| width | parameters | MACs | B | K | s a step | fitted | peak MB | fitted |",
        "| --- " * 9 + "|",
    ]
    for point in [*points, check]:
        seconds = float((_time_columns([point]) @ time_fit)[0])
        memory = float((_memory_columns([point]) @ memory_fit)[0])
        name = f"**{point.width}**" if point is check else str(point.width)
        lines.append(
            f"| {name} | {point.parameters:,} | {point.macs / 1e6:.1f} M | {point.batch} | "
            f"{point.steps} | {point.seconds:.3f} | {seconds:.3f} | {point.bytes / 1e6:.0f} | "
            f"{memory / 1e6:.0f} |"
        )
    c0, c1, c2, c3 = time_fit
    m0, m1, m2 = memory_fit
    errors = [abs(float((_time_columns([p]) @ time_fit)[0]) / p.seconds - 1) for p in points]
    lines += [
        "",
        f"seconds = {c0:.3g} + B(2K+3)({c1:.3g} · MACs + {c2:.3g} · saved) + {c3:.3g} · parameters "
        f"(mean error {np.mean(errors):.0%}, largest {max(errors):.0%})",
        f"bytes = {m0:.3g} + {m1:.3g} · parameters + {m2:.3g} · B·saved",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 7], help="K")
    parser.add_argument("--check", type=int, default=64, help="width of the larger run")
    parser.add_argument("--check-batch", type=int, default=16)
    parser.add_argument("--check-steps", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON of all points, written as they come; those that it has are not measured again",
    )
    parser.add_argument("--predict", action="store_true", help="two large searches, extrapolated")
    parser.add_argument("--point", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(asdict(measure(*options.point, options.repeats))))
        return
    if options.predict:
        print(predict())
        return
    known: list[Point] = []
    if options.out and options.out.exists():
        known = [Point(**entry) for entry in json.loads(options.out.read_text())]
    points: list[Point] = []

    def run(width: int, batch: int, steps: int) -> Point:
        same = [p for p in known if (p.width, p.batch, p.steps) == (width, batch, steps)]
        if not same:
            known.append(measure_apart(width, batch, steps, options.repeats))
            if options.out:
                options.out.write_text(json.dumps([asdict(p) for p in known], indent=1))
        points.append(same[0] if same else known[-1])
        return points[-1]

    for width in options.widths:
        for batch in options.batches:
            for steps in options.steps:
                run(width, batch, steps)
    check = run(options.check, options.check_batch, options.check_steps)
    print(report(points[:-1], check))


if __name__ == "__main__":
    main()
