"""What is left of certificates after pruning without training.

    python -m benchmarks.layerwise_certified --out runs/layerwise_certified

An FCN is trained on ECG200 with CROWN-IBP bounds for L∞ ε = 0.05 (the settings of the config
rst_certified_ecg200), one network a seed. It is pruned by `prune_layerwise` on clean or on
attacked inputs and judged on all 100 test series: clean accuracy, certified accuracy at several
ε (CROWN-IBP, a lower bound) and accuracy under PGD (an upper bound).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from benchmarks.kept import note, rows
from robustprune.bounds import certified
from robustprune.layerwise import prune_layerwise
from robustprune.measure import evaluate, mean_sd
from robustprune.minmax import Certified, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.search import prune_one_shot
from robustprune.tasks import BatchLoader, Split, Task, load_task

THREAT = ThreatModel("linf", 0.05)
RADII = (0.025, 0.05)
ADMM = {"rho": 0.1, "ridge": 0.01, "iterations": 60, "chosen": 50, "start": "optimum"}


def dense(seed: int, task: Task, out: Path) -> nn.Module:
    """The certified network of a seed, trained now or fetched."""
    torch.manual_seed(seed)
    model = build_model("fcn", task, options={"widths": [64, 128, 64]})
    path = out / f"dense-{seed}.safetensors"
    if not path.exists():
        train(
            model,
            BatchLoader(task.train, 25, shuffle=True, seed=seed),
            Certified(THREAT, method="crown-ibp", warmup=50.0, kappa=0.5),
            optimizer=OptimizerSpec(lr=0.05, weight_decay=5e-3),
            epochs=100,
        )
        save_tensors(path, dict(model.state_dict()), {})
    model.load_state_dict(load_tensors(path)[0])
    return model.eval()


def pruned(name: str, model: nn.Module, density: float, task: Task, seed: int) -> nn.Module:
    """The network after a method."""
    if name == "magnitude":
        return prune_one_shot(model, density=density, dense=("last",)).model.eval()
    x, y = task.train.batch(slice(None))
    loader = BatchLoader(Split(x, y), len(y), shuffle=False, seed=0)
    attack = PGD(THREAT, steps=20, step_size=THREAT.eps / 4, seed=seed)
    attacked: dict[str, object] = {"attack": attack, "clean": 0.0, "sweeps": 3}
    return prune_layerwise(
        model, loader, density=density, allocate="erk", dense=("last",), seed=seed, **ADMM,
        **(attacked if name == "attacked" else {}),
    ).model.eval()  # fmt: skip


def figures(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, object]:
    """Percentages of the test set."""
    found: dict[str, object] = {}
    for eps in RADII:
        threat = replace(THREAT, eps=eps)
        attack = PGD(threat, steps=20, step_size=eps / 4, restarts=5, seed=0)
        outcome = evaluate(model, x, y, {"pgd": attack}, batch_size=100)
        proven = certified(model, x, y, threat, method="crown-ibp")
        assert not bool((proven & ~outcome.worst).any()), "a certificate was broken"
        found["clean"] = 100 * float(outcome.clean.float().mean())
        found["constant"] = outcome.constant
        found[f"certified {eps:g}"] = 100 * float(proven.float().mean())
        found[f"attacked {eps:g}"] = 100 * float(outcome.worst.float().mean())
    return found


def table(found: list[dict]) -> str:
    """Mean ± sd over the seeds, a line for each method and density."""
    names = ["clean", *(f"{kind} {eps:g}" for eps in RADII for kind in ("certified", "attacked"))]
    lines = [f"| network | density | {' | '.join(names)} |", "| --- " * (len(names) + 2) + "|"]
    for key in dict.fromkeys((row["method"], row["density"]) for row in found):
        mine = [row for row in found if (row["method"], row["density"]) == key]
        cells = [mean_sd([row[name] for row in mine]) for name in names]
        texts = [f"{cell.mean:.1f} ± {cell.sd:.1f}" for cell in cells]
        lines.append(f"| {key[0]} | {key[1]:g} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/layerwise_certified"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--densities", nargs="+", type=float, default=[0.5, 0.2, 0.1, 0.05])
    options = parser.parse_args()
    keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    task = load_task("ecg200")
    x, y = task.test.batch(slice(None))
    done = {(row["method"], row["density"], row["seed"]) for row in rows(options.out)}
    for seed in range(options.seeds):
        model = dense(seed, task, options.out)
        asked = [("dense", 1.0)]
        asked += [(m, d) for m in ("clean", "attacked", "magnitude") for d in options.densities]
        for name, density in asked:
            if (name, density, seed) in done:
                continue
            found = model if name == "dense" else pruned(name, model, density, task, seed)
            row = {"method": name, "density": density, "seed": seed}
            note(options.out, {**row, **figures(found, x, y)})
    print(table(rows(options.out)))


if __name__ == "__main__":
    main()
