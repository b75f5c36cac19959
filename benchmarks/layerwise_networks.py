"""The adversarially trained dense networks that `benchmarks.layerwise` prunes.

    python -m benchmarks.layerwise_networks --data-dir DATA --out runs/layerwise

Each is trained once a seed and kept under OUT; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Checkpoint, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.checkpoint import forget, load_tensors, save_tensors
from robustprune.tasks import BatchLoader, Task, load_task


@dataclass(frozen=True)
class Case:
    """A data set with its network, its threat model and how the dense network is trained.

    Attributes:
        inner: steps of PGD in training, and their size as a share of ε.
        warmup: epochs in which ε grows from zero.
        judge: steps of PGD in evaluation.
        queries: of Square in evaluation, for images, whose networks may hide from gradients; 0 for
            none.
        images: how many test examples are attacked; None for all.
        calibration: how many training examples a pruning without training looks at; None for all.
        seeds: how many dense networks.
        whole: layers that no method prunes.
        half: train in bfloat16 and channels-last, for images.
    """

    task: str
    model: str
    options: Mapping[str, object]
    threat: ThreatModel
    inner: tuple[int, float]
    batch_size: int
    epochs: int
    optimizer: OptimizerSpec
    warmup: float = 0.0
    judge: int = 20
    queries: int = 0
    images: int | None = None
    calibration: int | None = None
    seeds: int = 10
    whole: tuple[str, ...] = ()
    half: bool = False

    @property
    def attack(self) -> PGD:
        """The inner attack of training."""
        steps, share = self.inner
        return PGD(self.threat, steps=steps, step_size=share * self.threat.eps)


_SERIES = ThreatModel("linf", 0.1)
_FCN: dict[str, object] = {"widths": [64, 128, 64]}


def _series(task: str, batch_size: int, weight_decay: float) -> Case:
    optimizer = OptimizerSpec(lr=0.05, weight_decay=weight_decay)
    return Case(
        task, "fcn", _FCN, _SERIES, (7, 0.25), batch_size, 100, optimizer, whole=("last",)
    )  # fmt: skip


def _mnist(epochs: int, *, images: int, seeds: int) -> Case:
    return Case(
        "mnist", "lenet", {"width": 4, "units": 16, "batch_norm": True},
        ThreatModel("linf", 0.3, (0.0, 1.0)), (4, 0.5), 100, epochs, OptimizerSpec(lr=0.05),
        warmup=1.0, judge=40, queries=1000, images=images, calibration=2000, seeds=seeds,
        whole=("first", "last"), half=True,
    )  # fmt: skip


def _cifar(width: int, epochs: int) -> Case:
    return Case(
        "cifar10", "preact_resnet18", {"width": width}, ThreatModel("linf", 8 / 255, (0.0, 1.0)),
        (2, 0.625), 128, epochs, OptimizerSpec(lr=0.1), queries=1000, images=500, calibration=2000,
        seeds=1, whole=("first", "last"), half=True,
    )  # fmt: skip


CASES = {
    "ecg200": _series("ecg200", 25, 5e-3),
    "sony1": _series("sony_aibo_1", 10, 5e-4),
    "sony2": _series("ucr:SonyAIBORobotSurface2", 10, 5e-4),
    "ecgfivedays": _series("ucr:ECGFiveDays", 10, 5e-4),
    "mnist": _mnist(16, images=500, seeds=3),
    "mnist-short": _mnist(6, images=1000, seeds=1),  # this network hides its gradient
    "cifar-w8": _cifar(8, 30),
    "cifar-w16": _cifar(16, 20),
}  # fmt: skip


@cache
def data(task: str, folder: Path | None) -> Task:
    """The data set, in memory."""
    return load_task(task, data_dir=folder)


def loader(case: Case, task: Task, seed: int) -> BatchLoader:
    """Training batches, shuffled and augmented."""
    alone = len(task.train) % case.batch_size == 1
    return BatchLoader(
        task.train, case.batch_size, shuffle=True, seed=seed, augment=task.augment, drop_last=alone
    )


def dense(name: str, seed: int, out: Path, folder: Path | None) -> nn.Module:
    """The dense network, trained now or fetched."""
    case = CASES[name]
    task = data(case.task, folder)
    torch.manual_seed(seed)
    model = build_model(case.model, task, options=dict(case.options))
    path = out / "dense" / f"{name}-{seed}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        train(
            model,
            loader(case, task, seed),
            Adversarial(case.attack, warmup=case.warmup),
            optimizer=case.optimizer,
            epochs=case.epochs,
            amp=case.half,
            channels_last=case.half,
            checkpoint=Checkpoint(state := path.with_suffix(".state")),
            title=f"{name}, seed {seed}",
        )
        save_tensors(path, dict(model.state_dict()), {"seconds": time.monotonic() - started})
        forget(state)
    model.load_state_dict(load_tensors(path)[0])
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/layerwise"))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    keep_freed_memory()
    for name in options.cases:
        for seed in range(CASES[name].seeds):
            dense(name, seed, options.out, options.data_dir)


if __name__ == "__main__":
    main()
