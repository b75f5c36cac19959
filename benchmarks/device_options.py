"""What bfloat16, channels last and compiling are worth on the device there is.

    python -m benchmarks.device_options

Steps of adversarial training (PGD-7) through the project's own loop on random images, a fresh
network for each row, without the first epoch (which compiles); then whole trainings on the packaged
ECG200 in float32 and in bfloat16, whose accuracy under attack should be alike.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from attacks import PGD, ThreatModel
from benchmarks.search_step import CASES, OBJECTIVE, SPEC, Clock
from robustprune.measure import evaluate
from robustprune.minmax import Adversarial, LoopOptions, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.runtime import choose_device
from robustprune.tasks import BatchLoader, load_task

ROWS: dict[str, LoopOptions] = {
    "float32": {},
    "float32, channels last": {"channels_last": True},
    "bfloat16": {"amp": True},
    "bfloat16, channels last": {"amp": True, "channels_last": True},
    "bfloat16, channels last, compiled": {"amp": True, "channels_last": True, "compile": True},
}


def seconds_a_step(
    name: str, options: LoopOptions, *, device: torch.device, batch: int, steps: int, repeats: int
) -> list[float]:
    """Quartiles over all steps but those of the first epoch."""
    inputs, settings, _ = CASES[name]
    torch.manual_seed(0)
    model = build_model(name, inputs, options=settings)
    x = torch.rand(steps * batch, *inputs.input_shape)
    clock = Clock(x.to(device), torch.randint(inputs.num_classes, (len(x),), device=device), batch)
    train(
        model, clock, OBJECTIVE,
        optimizer=SPEC, epochs=1 + repeats, device=device, quiet=True, **options,
    )  # fmt: skip
    return statistics.quantiles(clock.seconds[steps:])


def accuracies(amp: bool, *, device: torch.device, seed: int, epochs: int) -> tuple[float, float]:
    """Of FCN on ECG200: clean, and under PGD-20."""
    task = load_task("ecg200")
    inputs, settings, _ = CASES["fcn"]
    threat = ThreatModel("linf", 0.1)
    torch.manual_seed(seed)
    model = build_model("fcn", inputs, options=settings)
    loader = BatchLoader(task.train, 25, shuffle=True, seed=seed)
    train(
        model, loader, Adversarial(PGD(threat, steps=7)),
        optimizer=OptimizerSpec(name="adam", lr=1e-3, weight_decay=0.0), epochs=epochs,
        device=device, amp=amp, quiet=True,
    )  # fmt: skip
    x, y = (part.to(device) for part in task.test.batch(slice(None)))
    outcome = evaluate(model.eval(), x, y, {"pgd": PGD(threat, steps=20, seed=0)}, batch_size=100)
    return float(outcome.clean.float().mean()), float(outcome.worst.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="*", default=["preact_resnet18"], choices=list(CASES))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="of an epoch")
    parser.add_argument("--repeats", type=int, default=3, help="epochs that are timed")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100, help="of the whole trainings")
    options = parser.parse_args()
    keep_freed_memory()
    device = choose_device(options.device)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    if options.models:
        print("| network | batch | loop | step, median (quartiles) | first row / this |")
        print("| --- " * 5 + "|")
    for name in options.models:
        first = None
        for row in options.rows:
            low, middle, high = seconds_a_step(
                name, ROWS[row], device=device, batch=options.batch, steps=options.steps,
                repeats=options.repeats,
            )  # fmt: skip
            first = first or middle
            time = f"{1e3 * middle:.1f} ms ({1e3 * low:.1f}–{1e3 * high:.1f})"
            print(
                f"| {name} | {options.batch} | {row} | {time} | {first / middle:.2f} |", flush=True
            )
    if options.seeds:
        print("\n| ECG200, FCN | clean | PGD-20 |\n| --- | --- | --- |")
        for amp in (False, True):
            found = [
                accuracies(amp, device=device, seed=seed, epochs=options.epochs)
                for seed in options.seeds
            ]
            cells = " | ".join(
                f"{100 * statistics.fmean(column):.1f}" for column in zip(*found, strict=True)
            )
            print(f"| {'bfloat16' if amp else 'float32'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
