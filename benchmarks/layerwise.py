"""Pruning without training, on adversarially trained networks: how sparse can they be?

    python -m benchmarks.layerwise --data-dir DATA --out runs/layerwise --cases ecg200
    python -m benchmarks.layerwise --out runs/layerwise --table

The dense networks are those of `benchmarks.layerwise_networks`. Every network is judged on test
examples by FGSM, PGD with five restarts and APGD, images by Square, too, and with --whole by whole
AutoAttack; what is counted as robust stood against all of them, an upper bound. Each figure is a
line of results.jsonl, and the same command goes on where it stopped. "+10" behind a method:
fine-tuned under attack for ten epochs afterwards. With --keep every pruned
network stays in OUT/networks, for `benchmarks.compression`, and for the same command with --whole,
which then only judges.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor, nn

from attacks import Square
from benchmarks.kept import load_masked, note, rows, save_masked
from benchmarks.layerwise_methods import METHODS, made
from benchmarks.layerwise_networks import CASES, Case, data, dense
from benchmarks.layerwise_tables import paired, table
from benchmarks.search_rows import ROWS as SEARCH_ROWS
from benchmarks.sparse_rows import ROWS
from robustprune.measure import attack_set, evaluate
from robustprune.models import build_model
from robustprune.run.allocator import keep_freed_memory
from robustprune.tasks import Task

DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)


def figures(case: Case, task: Task, model: nn.Module, *, whole: bool) -> dict[str, object]:
    """Accuracies in percent, and example by example who stood against everything."""
    x, y = task.test.batch(slice(case.images))
    attacks = attack_set(
        case.threat, steps=case.judge, step_size=case.threat.eps / 4, restarts=5,
        more=("apgd", "autoattack") if whole else ("apgd",),
    )  # fmt: skip
    if case.queries:
        attacks["square"] = Square(case.threat, queries=case.queries, seed=0)
    outcome = evaluate(model, x, y, attacks, batch_size=500)
    return {
        "clean": percent(outcome.clean),
        **{name: percent(right) for name, right in outcome.robust.items()},
        "robust": percent(outcome.worst),
        "constant": outcome.constant,
        "stood": "".join("01"[int(right)] for right in outcome.worst),
        "n": len(y),
    }


def percent(right: Tensor) -> float:
    return round(100 * float(right.double().mean()), 2)


def kept(out: Path, case: str, seed: int, what: str, density: float) -> Path:
    """Where a pruned network stays."""
    return out / "networks" / f"{case}-{seed}-{what.replace(' ', '_')}-{density:g}.safetensors"


def stored(path: Path, case: Case, task: Task) -> nn.Module:
    """A kept network."""
    model = build_model(case.model, task, options=dict(case.options))
    model.load_state_dict(load_masked(path)[0])
    return model.eval()


#: what a row says about the making of a network, and not about its judgement
MADE = ("kept", "work", "explored", "seconds")


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    before = {(r["case"], r["seed"], r["method"], r["density"]): r for r in rows(options.out)}
    for name in options.cases:
        case = CASES[name]
        for seed in range(options.first_seed, options.seeds or case.seeds):
            if (
                not options.train
                and not (options.out / "dense" / f"{name}-{seed}.safetensors").exists()
            ):
                continue
            task, model = data(case.task, options.data_dir), None
            wanted = ["autoattack"] * options.whole + ["square"] * bool(case.queries)
            asked = [("dense", 1.0), *((m, d) for m in options.methods for d in options.densities)]
            for what, density in asked:
                known = before.get((name, seed, what, density))
                if known is not None and all(attack in known for attack in wanted):
                    continue
                model = model or dense(name, seed, options.out, options.data_dir)
                path = kept(options.out, name, seed, what, density)
                found, extra = model, {"seconds": 0.0}
                if known is not None and path.exists():
                    found = stored(path, case, task)
                    extra = {key: known[key] for key in MADE if key in known}
                elif what != "dense":
                    ticket, extra = made(what, case, task, model, density, seed)
                    found = ticket.model.eval()
                    if options.keep:
                        save_masked(path, found, ticket.masks)
                row = {"case": name, "seed": seed, "method": what, "density": density, **extra}
                note(options.out, row | figures(case, task, found, whole=options.whole))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/layerwise"))
    parser.add_argument("--cases", nargs="+", default=["ecg200"], choices=list(CASES))
    pruned = [name for name in METHODS if name not in ROWS | SEARCH_ROWS]
    parser.add_argument("--methods", nargs="+", default=pruned, help="+N: fine-tuned")
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES))
    parser.add_argument("--seeds", type=int, help="how many; default what the case says")
    parser.add_argument("--first-seed", type=int, default=0, help="go on from this one")
    parser.add_argument(
        "--train", action="store_true", help="train dense networks that are missing"
    )
    parser.add_argument("--whole", action="store_true", help="whole AutoAttack, too")
    parser.add_argument("--keep", action="store_true", help="keep the pruned networks")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    parser.add_argument("--against", help="also differences to this method, paired by seed")
    options = parser.parse_args()
    keep_freed_memory()
    if not options.table:
        run(options)
    print(table(rows(options.out), options.cases))
    for case in options.cases if options.against else ():
        print(f"\n{paired(rows(options.out), case, options.against)}")


if __name__ == "__main__":
    main()
