"""Can small networks be trained under attack? The MNIST table of Ye et al., ICCV 2019
(arXiv 1903.12561, Tables 1 to 3), with its controls.

    python -m benchmarks.small_networks --data-dir DATA --out runs/small
    python -m benchmarks.small_networks --out runs/small --table

LeNet of width w, L∞ ε = 0.3. "a→b": a network of width a, trained under attack, is pruned by ADMM
to the filters of width b and retrained; "b": trained from scratch; "a→b, first weights": the
filters that ADMM chose, at the values they had before any training. "whole ε" meets ε = 0.3 from
the first step on, as in the paper; elsewhere ε grows from zero over the first epochs.

Finished networks stay under --out, each figure is a line of results.jsonl; the same command goes
on where it stopped. Sized for one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks import PGD, Attack, ThreatModel
from benchmarks.kept import load_masked, note, rows, save_masked
from robustprune.deploy import silence, slim
from robustprune.measure import evaluate
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    LoopOptions,
    OptimizerSpec,
    Validation,
    train,
)
from robustprune.models import LeNet
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.checkpoint import forget, load_tensors, save_tensors
from robustprune.search import prune_admm
from robustprune.sparsity import MaskSet
from robustprune.tasks import BatchLoader, Split, Task, holdout, load_task

NETWORKS = (
    "4", "4→1", "4→2", "1", "2", "8", "8→2", "8→4",
    "4→1, first weights", "4→2, first weights", "8→2, first weights", "8→4, first weights",
    "1, whole ε", "2, whole ε", "4, whole ε",
    "4→1, first weights, whole ε", "8→2, first weights, whole ε",
)  # fmt: skip
#: robust accuracy in the paper, percent, under PGD-40
PUBLISHED = {
    "1, whole ε": 11.35, "2, whole ε": 11.35, "4": 91.38, "8": 93.51,
    "4→1": 89.41, "4→2": 91.77, "8→2": 93.93, "8→4": 94.27,
}  # fmt: skip
THREAT = ThreatModel("linf", 0.3, (0.0, 1.0))


@dataclass(frozen=True)
class Bench:
    options: argparse.Namespace

    @cached_property
    def data(self) -> tuple[Split, Split, Task]:
        """Training examples, 1,200 held out of them to choose epochs, and the task."""
        task = load_task("mnist", data_dir=self.options.data_dir)
        return *holdout(task.train, 0.02, self.options.seed), task

    def network(self, width: int) -> nn.Module:
        torch.manual_seed(self.options.seed)
        return LeNet((1, 28, 28), 10, width=width)

    def objective(self, *, warmup: float) -> Adversarial:
        attack = PGD(THREAT, steps=self.options.steps, step_size=self.options.step_size)
        return Adversarial(attack, warmup=warmup)

    def loader(self) -> BatchLoader:
        return BatchLoader(self.data[0], 100, shuffle=True, seed=self.options.seed, drop_last=True)

    def loop(self, name: str) -> LoopOptions:
        state = self.path(f"state {name}")
        state.parent.mkdir(parents=True, exist_ok=True)
        return {
            "amp": self.options.amp,
            "channels_last": True,
            "checkpoint": Checkpoint(state),
            "quiet": True,
        }

    def train(self, name: str, model: nn.Module, *, warmup: float) -> nn.Module:
        attack = PGD(THREAT, steps=10, step_size=0.06, seed=0)
        held_out = BatchLoader(self.data[1], 300, shuffle=False, seed=0)
        train(
            model,
            self.loader(),
            self.objective(warmup=warmup),
            optimizer=OptimizerSpec(name="adam", lr=self.options.lr, weight_decay=0.0),
            epochs=self.options.epochs,
            validation=Validation(loader=held_out, attack=attack),
            **self.loop(name),
        )
        return model

    def model(self, name: str) -> nn.Module:
        """The named network, trained now or fetched."""
        sizes, _, rest = name.partition(", ")
        wide, _, narrow = sizes.partition("→")
        model = self.network(int(narrow or wide))
        path = self.path(name)
        if not path.exists():
            warmup = 0.0 if "whole ε" in rest else self.options.warmup
            started = time.monotonic()
            if narrow:
                source = self.network(int(wide)) if "first" in rest else self.pruned(sizes)
                model.load_state_dict(self.narrow(source, self.admm(sizes)[1]))
                warmup = warmup if rest else 0.0  # what was trained before needs none
            self.train(name, model, warmup=warmup)
            save_tensors(path, dict(model.state_dict()), {"seconds": time.monotonic() - started})
            forget(self.path(f"state {name}"))
        model.load_state_dict(load_tensors(path)[0])
        return model.eval()

    def narrow(self, model: nn.Module, masks: MaskSet) -> Mapping[str, Tensor]:
        """The weights of a network of the smaller width: what is left of `model`."""
        example = torch.rand(2, 1, 28, 28)
        return slim(model, silence(model, masks, example), example).state_dict()

    def pruned(self, sizes: str) -> nn.Module:
        """The network of the larger width as ADMM leaves it, most filters zero."""
        model = self.network(int(sizes.partition("→")[0]))
        model.load_state_dict(self.admm(sizes)[0])
        return model

    def admm(self, sizes: str) -> tuple[dict[str, Tensor], MaskSet]:
        """State and masks after ADMM."""
        path = self.path(f"admm {sizes}")
        if not path.exists():
            wide, _, narrow = sizes.partition("→")
            ticket = prune_admm(
                self.model(wide),
                self.loader(),
                density=int(narrow) / int(wide),
                pattern="filter",
                dense=("last",),
                objective=self.objective(warmup=0.0),
                optimizer=OptimizerSpec(name="adam", lr=self.options.lr / 2, weight_decay=0.0),
                epochs=self.options.admm_epochs,
                every=1,
                rho=1e-2,
                **self.loop(f"admm {sizes}"),
            )
            save_masked(path, ticket.model, ticket.masks)
            forget(self.path(f"state admm {sizes}"))
        return load_masked(path)

    def path(self, name: str) -> Path:
        folder: Path = self.options.out / f"seed{self.options.seed}"
        return folder / f"{name.replace(', ', '-')}.safetensors"


def figures(bench: Bench, model: nn.Module) -> dict[str, float]:
    """Accuracy in percent: clean, under the paper's attack, and the worst of it and one with
    larger steps and three starts."""
    attacks: dict[str, Attack] = {
        "PGD-40": PGD(THREAT, steps=40, step_size=0.01, seed=0),
        "other": PGD(THREAT, steps=40, step_size=0.04, restarts=3, seed=1),
    }
    test = bench.data[2].test
    x, y = test.batch(slice(bench.options.images))
    model.to(memory_format=torch.channels_last)
    outcome = evaluate(model, x, y, attacks, batch_size=500)
    return {
        "clean": 100 * float(outcome.clean.float().mean()),
        "PGD-40": 100 * float(outcome.robust["PGD-40"].float().mean()),
        "worst": 100 * float(outcome.worst.float().mean()),
    }


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    done = {row["network"] for row in rows(options.out) if row["seed"] == options.seed}
    for name in options.networks:
        if name in done:
            continue
        model = bench.model(name)
        row = {
            "network": name,
            "seed": options.seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            **figures(bench, model),
        }
        note(options.out, row)


def table(found: Sequence[dict]) -> str:
    lines = [
        "| network | parameters | clean | PGD-40 | published | worst of PGD-40 and three starts |",
        "| --- " * 6 + "|",
    ]
    for row in found:
        published = PUBLISHED.get(row["network"])
        lines.append(
            f"| {row['network']} | {row['parameters']:,} | {row['clean']:.2f} "
            f"| {row['PGD-40']:.2f} | {'' if published is None else f'{published:.2f}'} "
            f"| {row['worst']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="holds MNIST, as torchvision lays it out")
    parser.add_argument("--out", type=Path, default=Path("runs/small_networks"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20, help="of every training and retraining")
    parser.add_argument("--admm-epochs", type=int, default=8)
    parser.add_argument("--warmup", type=float, default=5, help="epochs in which ε grows")
    parser.add_argument("--lr", type=float, default=1e-3, help="of Adam; ADMM takes half of it")
    parser.add_argument("--steps", type=int, default=5, help="of PGD in training")
    parser.add_argument("--step-size", type=float, default=0.12)
    parser.add_argument(
        "--amp",
        action="store_true",
        help="bfloat16: fast only where the processor has it",
    )
    parser.add_argument("--images", type=int, default=10_000, help="of the test set")
    parser.add_argument("--table", action="store_true", help="print what has been measured")
    options = parser.parse_args()
    keep_freed_memory()
    if not options.table:
        run(options)
    print(table(rows(options.out)))


if __name__ == "__main__":
    main()
