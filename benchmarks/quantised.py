"""Robust accuracy of quantised networks, dense and pruned without training.

    python -m benchmarks.quantised --dense runs/layerwise --out runs/quantised
    python -m benchmarks.quantised --out runs/quantised --table

The dense networks are those of `benchmarks.layerwise_networks` under DENSE, and the pruned ones
those of the row "ours" of `benchmarks.layerwise`. Each is judged as it is, as an int8 file, and
with weights of 8 and 4 bits: transferred and straight-through PGD and the Square attack, each on
the logits of the quantised network itself. A line of results.jsonl is one network in one form, and
the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks import Model
from benchmarks.kept import note, rows
from benchmarks.layerwise_methods import method
from benchmarks.layerwise_networks import CASES, Case, data, dense
from robustprune.deploy import export_int8, onnx_network, round_weights, straight_through
from robustprune.measure import mean_sd, robust_accuracy_quantised
from robustprune.run.allocator import keep_freed_memory
from robustprune.tasks import Task

FORMS = ("float", "int8 file", "8-bit weights", "4-bit weights")


def forms(
    model: nn.Module, calibration: Tensor, folder: Path
) -> dict[str, tuple[Model, nn.Module]]:
    """Each form of a network: what is judged, and the network whose gradient is followed."""
    files = export_int8(model, calibration, folder / "network.onnx")
    eight, four = round_weights(model, 8), round_weights(model, 4)
    return {
        "float": (model, model),
        "int8 file": (onnx_network(files.int8_path), straight_through(model, calibration)),
        "8-bit weights": (eight, eight),
        "4-bit weights": (four, four),
    }


def figures(
    case: Case, task: Task, model: nn.Module, judged: Model, through: nn.Module, queries: int
) -> dict[str, object]:
    """Accuracies in percent, and how many each attack broke, in all and alone."""
    x, y = task.test.batch(slice(case.images))
    found = robust_accuracy_quantised(
        model, judged, x, y, case.threat, straight_through=through, steps=case.judge,
        step_size=case.threat.eps / 4, queries=queries,
    )  # fmt: skip
    return {
        "clean": 100 * float(found.clean.float().mean()),
        "robust": 100 * float(found.worst.float().mean()),
        "broken": found.broken,
        "alone": found.broken_alone,
        "constant": found.constant,
        "stood": "".join("01"[int(right)] for right in found.worst),
        "n": len(y),
    }


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    done = {(r["case"], r["seed"], r["density"], r["form"]) for r in rows(options.out)}
    case, name = CASES[options.case], options.case
    for seed in range(options.seeds):
        for density in (1.0, *options.densities):
            if all((name, seed, density, form) in done for form in FORMS):
                continue
            task = data(case.task, options.data_dir)
            model = dense(name, seed, options.dense, options.data_dir)
            torch.manual_seed(seed)
            if density < 1:
                model = method("ours")(case, task, model, density, seed).model.eval()
            calibration, _ = task.train.batch(slice(case.calibration))
            with tempfile.TemporaryDirectory() as folder:
                made = forms(model, calibration, Path(folder))
                for form, (judged, through) in made.items():
                    if (name, seed, density, form) in done:
                        continue
                    started = time.process_time()
                    row = {"case": name, "seed": seed, "density": density, "form": form}
                    row |= figures(case, task, model, judged, through, options.queries)
                    seconds = round(time.process_time() - started, 1)
                    note(options.out, {**row, "queries": options.queries, "seconds": seconds})


def table(found: Sequence[Mapping], densities: Iterable[float]) -> str:
    """Mean ± sd over seeds, in percent and in examples."""
    lines = [
        "| kept | form | clean | robust, at most | broken by: transferred | straight-through | "
        "Square | by one of them alone |",
        "| --: | :-- " + "| --: " * 6 + "|",
    ]
    for density in densities:
        for form in FORMS:
            mine = [row for row in found if (row["density"], row["form"]) == (density, form)]
            if len(mine) < 2:
                continue
            clean, robust = (mean_sd([row[key] for row in mine]) for key in ("clean", "robust"))
            names = ("transferred", "straight-through", "square")
            broken = [sum(row["broken"][key] for row in mine) / len(mine) for key in names]
            alone = [sum(row["alone"][key] for row in mine) / len(mine) for key in names]
            lines.append(
                f"| {100 * density:g}% | {form} | {clean.mean:.1f} ± {clean.sd:.1f} | "
                f"{robust.mean:.1f} ± {robust.sd:.1f} | "
                + " | ".join(f"{value:.1f}" for value in broken)
                + f" | {', '.join(f'{value:.1f}' for value in alone)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dense", type=Path, default=Path("runs/layerwise"))
    parser.add_argument("--out", type=Path, default=Path("runs/quantised"))
    parser.add_argument("--case", default="ecg200", choices=list(CASES))
    parser.add_argument("--densities", nargs="+", type=float, default=[0.1, 0.05])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    keep_freed_memory()
    if not options.table:
        run(options)
    found = [row for row in rows(options.out) if row["case"] == options.case]
    print(table(found, (1.0, *options.densities)))


if __name__ == "__main__":
    main()
