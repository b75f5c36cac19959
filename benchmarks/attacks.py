"""Speed and strength of ``attacks`` beside the public libraries, on a real network.

    python benchmarks/attacks.py --data mnist --data-dir DATA --threads 2 --examples 500

Trains a small convolutional network adversarially (once; kept under --cache), then measures every
contender of a section in interleaved repetitions: A B C, B C A, C A B, ...  A ratio is the median
over repetitions of time / time of the section's reference in the same repetition.  The ratio of
processor time beside it is the one to read where other work shares the machine; with one thread it
is not disturbed by that work.  Peers that are
not installed are named and left out: ``pip install foolbox adv-lib torchattacks``, and AutoAttack
from github.com/fra31/auto-attack on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

# this file is called like the package: look for the package beside the folder, not in it
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from attacks import DDN, FMN, PGD, AutoAttack, DeepFool, ThreatModel, evaluating  # noqa: E402
from attacks.geometry import lengths  # noqa: E402
from robustprune.run.allocator import keep_freed_memory  # noqa: E402

PIXELS = (0.0, 1.0)
EPS = {"mnist": {"linf": 0.3, "l2": 2.0}, "cifar10": {"linf": 8 / 255, "l2": 0.5}}


@dataclass(frozen=True)
class Contender:
    """A name and a call that returns adversarial examples for the section's batch."""

    name: str
    run: Callable[[], Tensor]


def load(name: str, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_train, y_train, x_test, y_test in [0, 1]; from an .npz where there is one."""
    packed = folder / "CIFAR-10" / "cifar10.npz"
    if name == "cifar10" and packed.exists():
        arrays = np.load(packed)
        images = [torch.from_numpy(arrays[f"x_{part}"]) for part in ("train", "test")]
        labels = [torch.from_numpy(arrays[f"y_{part}"]).long() for part in ("train", "test")]
        images = [image.permute(0, 3, 1, 2).float() / 255 for image in images]
        return images[0], labels[0], images[1], labels[1]
    make = torchvision.datasets.MNIST if name == "mnist" else torchvision.datasets.CIFAR10
    parts: list[Tensor] = []
    for train in (True, False):
        data = make(str(folder), train=train, download=not (folder / "MNIST").exists())
        images = torch.as_tensor(data.data).float() / 255
        parts.append(images.unsqueeze(1) if name == "mnist" else images.permute(0, 3, 1, 2))
        parts.append(torch.as_tensor(data.targets).long())
    return parts[0], parts[1], parts[2], parts[3]


def network(channels: int, size: int) -> nn.Module:
    """Four convolutions and two linear layers."""
    last = 64 * (size // 4) ** 2
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(last, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def trained(name: str, x: Tensor, y: Tensor, *, epochs: int, cache: Path) -> nn.Module:
    """An adversarially trained network: PGD-7 with a radius that grows over the first half."""
    torch.manual_seed(0)
    model = network(x.shape[1], x.shape[2])
    kept = cache / f"attacks-{name}-{epochs}-{len(x)}.pt"
    if kept.exists():
        model.load_state_dict(torch.load(kept))
        return model.eval()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    total, done = epochs * -(-len(x) // 128), 0
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), 128):
            eps = EPS[name]["linf"] * min(1.0, 2 * done / total + 0.05)
            attack = PGD(ThreatModel("linf", eps, PIXELS), steps=7)
            x_adv = attack(model, x[rows], y[rows])
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x_adv), y[rows])
            loss.backward()
            optimizer.step()
            done += 1
        print(f"  training {name}: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), kept)
    return model.eval()


def peer(module: str) -> Any | None:
    """The module, or None with a line that says so."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"  left out: {module} ({error})")
        return None


def floor(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Nothing but the forward passes and input gradients."""
    x_adv = x.clone()
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv + 0 * grad
    return x_adv.detach()


Times = list[tuple[float, float]]  # (wall, processor) seconds of each repetition


def measure(contenders: list[Contender], repetitions: int) -> tuple[list[Times], list[Tensor]]:
    """Seconds per contender and repetition, and what each returned last."""
    seconds: list[Times] = [[] for _ in contenders]
    results: list[Tensor] = [torch.empty(0)] * len(contenders)
    for repetition in range(repetitions):
        for shift in range(len(contenders)):
            k = (repetition + shift) % len(contenders)
            torch.manual_seed(0)
            begin, begin_cpu = time.perf_counter(), time.process_time()
            results[k] = contenders[k].run()
            seconds[k].append((time.perf_counter() - begin, time.process_time() - begin_cpu))
    return seconds, results


def table(
    title: str, contenders: list[Contender], repetitions: int, describe: Callable[[Tensor], str]
) -> None:
    """Measure and print one section; the first contender is the reference of the ratios."""
    seconds, results = measure(contenders, repetitions)
    print(f"\n### {title}\n")
    print("| | time, s | ratio | processor time ratio | result |\n| --- | --- | --- | --- | --- |")
    for contender, times, result in zip(contenders, seconds, results, strict=True):
        pairs = list(zip(times, seconds[0], strict=True))
        wall, processor = (
            statistics.median(ours[kind] / base[kind] for ours, base in pairs) for kind in (0, 1)
        )
        print(
            f"| {contender.name} | {statistics.median(wall for wall, _ in times):.2f} "
            f"| {wall:.3f} | {processor:.3f} | {describe(result)} |",
            flush=True,
        )


def pgd_section(model: nn.Module, x: Tensor, y: Tensor, eps: float, repetitions: int) -> None:
    threat, steps, alpha = ThreatModel("linf", eps, PIXELS), 20, eps / 8
    contenders = [
        Contender("floor: 20 forward + input gradient", lambda: floor(model, x, y, steps))
    ]
    ours = PGD(threat, steps=steps, step_size=alpha, seed=0)
    contenders.append(Contender("attacks.PGD", lambda: ours(model, x, y)))
    if (torchattacks := peer("torchattacks")) is not None:
        theirs = torchattacks.PGD(model, eps=eps, alpha=alpha, steps=steps)
        contenders.append(Contender("torchattacks.PGD", lambda: theirs(x, y).detach()))
    if (adv_lib := peer("adv_lib.attacks")) is not None:
        options = {"ε": eps, "steps": steps, "absolute_step_size": alpha, "restarts": 1}
        contenders.append(
            Contender("adv_lib.pgd_linf", lambda: adv_lib.pgd_linf(model, x, y, **options))
        )
    if (foolbox := peer("foolbox")) is not None:
        wrapped = foolbox.PyTorchModel(model, bounds=PIXELS)
        attack = foolbox.attacks.LinfPGD(abs_stepsize=alpha, steps=steps)
        contenders.append(
            Contender("foolbox.LinfPGD", lambda: attack(wrapped, x, y, epsilons=eps)[1])
        )

    def describe(x_adv: Tensor) -> str:
        right = model(x_adv).argmax(1) == y
        far = (x_adv - x).abs().max().item()
        return f"robust accuracy {right.double().mean():.2%}, max distance {far:.6f}"

    table(f"PGD-{steps}, L∞ ε = {eps:.4g}, n = {len(x)}", contenders, repetitions, describe)


def minimal_section(
    model: nn.Module, x: Tensor, y: Tensor, repetitions: int, names: Sequence[str]
) -> None:
    adv_lib = peer("adv_lib.attacks")
    right = model(x).argmax(1) == y  # the others have r* = 0 whatever the attack
    for steps in (30, 100):
        for name, norm in (("DDN", "l2"), ("FMN", "l2"), ("FMN", "linf"), ("DeepFool", "l2")):
            if name not in names or (name == "DeepFool" and steps != 100):
                continue
            ours = {
                "DDN": DDN(steps=steps, bounds=PIXELS),
                "FMN": FMN(norm, steps=steps, bounds=PIXELS),
                "DeepFool": DeepFool(norm, bounds=PIXELS),
            }[name]
            contenders = []
            if adv_lib is not None:
                order = {"l2": 2, "linf": float("inf")}[norm]
                theirs: dict[str, Callable[[], Tensor]] = {
                    "DDN": lambda s=steps: adv_lib.ddn(model, x, y, steps=s, levels=None),
                    "FMN": lambda s=steps, p=order: adv_lib.fmn(model, x, y, norm=p, steps=s),
                    "DeepFool": lambda p=order: adv_lib.df(model, x, y, norm=p),
                }
                contenders.append(Contender(f"adv_lib {name}", theirs[name]))
            contenders.append(Contender(f"attacks.{name}", lambda a=ours: a(model, x, y)))

            def describe(x_adv: Tensor, norm: str = norm) -> str:
                broken = model(x_adv).argmax(1) != y
                r = torch.where(broken, lengths(x_adv - x, norm), torch.inf)[right]
                r, share = r.sort().values, broken[right].double().mean()
                return f"median r* {r[len(r) // 2]:.5f}, success {share:.1%}"

            title = f"{name}, {norm}, n = {len(x)}" + (
                "" if name == "DeepFool" else f", {steps} steps"
            )
            table(title, contenders, repetitions, describe)


def ensemble_section(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    name: str,
    *,
    norms: list[str],
    queries: int,
    steps: int,
) -> None:
    autoattack = peer("autoattack")
    for norm in norms:
        spelt = {"linf": "Linf", "l2": "L2"}[norm]
        eps = EPS[name][norm]
        contenders = []
        if autoattack is not None:
            original = autoattack.AutoAttack(
                model, norm=spelt, eps=eps, seed=0, verbose=False, device="cpu"
            )
            original.square.n_queries = queries
            for part in (original.apgd, original.apgd_targeted, original.fab):
                part.n_iter = steps
            run = original.run_standard_evaluation
            contenders.append(Contender("autoattack, standard", lambda run=run: run(x, y, bs=250)))
        ours = AutoAttack(
            ThreatModel(norm, eps, PIXELS), steps=steps, queries=queries, batch_size=64
        )
        contenders.append(Contender("attacks.AutoAttack", lambda a=ours: a(model, x, y)))

        def describe(x_adv: Tensor, norm: str = norm) -> str:
            right = (model(x_adv).argmax(1) == y).double().mean()
            far = lengths(x_adv - x, norm).max().item()
            return f"robust accuracy {right:.2%}, max distance {far:.6f}"

        table(f"AutoAttack, {norm} ε = {eps:.4g}, n = {len(x)}", contenders, 1, describe)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=sorted(EPS), default="mnist")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train-examples", type=int, default=20000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--sections", nargs="+", choices=("pgd", "minimal", "ensemble"),
        default=["pgd", "minimal", "ensemble"],
    )  # fmt: skip
    parser.add_argument(
        "--minimal", nargs="+", choices=("DDN", "FMN", "DeepFool"),
        default=["DDN", "FMN", "DeepFool"], help="attacks of the minimal section",
    )  # fmt: skip
    parser.add_argument(
        "--norms", nargs="+", choices=("linf", "l2"), default=["linf", "l2"],
        help="of the ensemble section",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="32 examples, short training: does it run at all?"
    )
    options = parser.parse_args()
    keep_freed_memory()
    if options.quick:
        options.examples, options.epochs, options.train_examples = 32, 1, 1280
        options.repetitions = 2
    torch.set_num_threads(options.threads)
    x_train, y_train, x_test, y_test = load(options.data, options.data_dir)
    kept = options.train_examples
    model = trained(
        options.data, x_train[:kept], y_train[:kept], epochs=options.epochs, cache=options.cache
    )
    x, y = x_test[: options.examples].contiguous(), y_test[: options.examples]
    with evaluating(model):
        right = (model(x).argmax(1) == y).double().mean()
        print(f"{options.data}: clean accuracy {right:.1%}, threads {options.threads}")
        if "pgd" in options.sections:
            pgd_section(model, x, y, EPS[options.data]["linf"], options.repetitions)
        if "minimal" in options.sections:
            minimal_section(model, x, y, options.repetitions, options.minimal)
        if "ensemble" in options.sections:
            queries, steps = (50, 10) if options.quick else (5000, 100)
            ensemble_section(
                model, x, y, options.data, norms=options.norms, queries=queries, steps=steps
            )


if __name__ == "__main__":
    main()
