"""AutoAttack beside the code of its authors: the whole protocol in L∞, time and accuracy.

    python -m benchmarks.autoattack --data-dir DATA --cases mnist cifar10

The original is github.com/fra31/auto-attack, which has to be on PYTHONPATH. Both run in one process
on one thread, on the same network and images, in turn over the blocks of images: the original and
ours on the first block, ours and the original on the second, and so on. The ratio is of processor
time, which other work on the machine disturbs least. Passes are examples that went forward through
the network. The networks are trained first, and kept under --cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks import AutoAttack, ThreatModel
from attacks.geometry import lengths
from benchmarks.attacks import EPS, PIXELS, load, peer, trained
from benchmarks.layerwise_networks import CASES, dense
from robustprune.run.allocator import keep_freed_memory

#: test images of each case
IMAGES = {"mnist": 200, "cifar10": 500, "cifar10-cnn": 500}


def network(case: str, x: Tensor, y: Tensor, options: argparse.Namespace) -> nn.Module:
    """Return an adversarially trained network: a ResNet-18 of width 8, or four convolutions."""
    if case == "mnist":
        return trained("mnist", x[:20000], y[:20000], epochs=5, cache=options.cache)
    if case == "cifar10-cnn":
        return trained("cifar10", x[:10000], y[:10000], epochs=4, cache=options.cache)
    CASES["cifar-w8"] = replace(CASES["cifar-w8"], epochs=4)
    return dense("cifar-w8", 0, options.cache, options.data_dir)


def original(model: nn.Module, eps: float, steps: int, queries: int) -> Callable[..., Tensor]:
    """The authors' standard version."""
    library = peer("autoattack")
    if library is None:
        raise SystemExit("autoattack is missing: clone github.com/fra31/auto-attack on PYTHONPATH")
    attack = library.AutoAttack(
        model, norm="Linf", eps=eps, seed=0, verbose=False, device="cpu", log_path=None
    )
    attack.square.n_queries = queries
    for part in (attack.apgd, attack.apgd_targeted, attack.fab):
        part.n_iter = steps
    run: Callable[..., Tensor] = attack.run_standard_evaluation
    return run


def compare(case: str, options: argparse.Namespace) -> None:
    """Run both on one case and print a row of the table."""
    data = case.partition("-")[0]
    x_train, y_train, x, y = load(data, options.data_dir)
    model = network(case, x_train, y_train, options).eval()
    count = options.images or IMAGES[case]
    x, y, eps = x[:count].contiguous(), y[:count], EPS[data]["linf"]
    theirs = original(model, eps, options.steps, options.queries)
    protocol = AutoAttack(
        ThreatModel("linf", eps, PIXELS), steps=options.steps, queries=options.queries
    )
    runs: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "original": lambda x, y: theirs(x, y, bs=250),
        "attacks": lambda x, y: protocol(model, x, y),
    }
    passes = [0]
    model.register_forward_pre_hook(
        lambda module, inputs: passes.__setitem__(0, passes[0] + len(inputs[0]))
    )
    seconds, counts = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0)
    found: dict[str, list[Tensor]] = {name: [] for name in runs}
    for block, rows in enumerate(torch.arange(count).chunk(options.blocks)):
        for name in sorted(runs, reverse=block % 2 == 0):
            passes[0], begin = 0, time.process_time()
            found[name].append(runs[name](x[rows], y[rows]).detach())
            seconds[name] += time.process_time() - begin
            counts[name] += passes[0]
            print(f"  {case}, block {block}, {name}: {seconds[name]:.1f} s", flush=True)
    standing, far = {}, {}
    with torch.no_grad():
        for name, parts in found.items():
            x_adv = torch.cat(parts)
            standing[name] = model(x_adv).argmax(1) == y
            far[name] = lengths(x_adv - x, "linf").max().item()
    both = (standing["original"] == standing["attacks"]).sum().item()
    print(
        f"| {case}, {count} images, ε = {eps:.4g} "
        f"| {standing['original'].double().mean():.2%} | {standing['attacks'].double().mean():.2%} "
        f"| {both} of {count} | {counts['original']} | {counts['attacks']} "
        f"| {seconds['original']:.0f} s | {seconds['attacks']:.0f} s "
        f"| {seconds['attacks'] / seconds['original']:.3f} |\n"
        f"  largest distances {far}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--cases", nargs="+", choices=list(IMAGES), default=list(IMAGES))
    parser.add_argument("--blocks", type=int, default=2, help="in which the two take turns")
    parser.add_argument("--images", type=int, help="test images; otherwise 200 or 500")
    parser.add_argument("--steps", type=int, default=100, help="100 is the protocol")
    parser.add_argument("--queries", type=int, default=5000, help="5000 is the protocol")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    print(
        "| case | robust: original | attacks | alike | forward passes: original | attacks "
        "| time: original | attacks | ratio |\n|" + " --- |" * 9
    )
    for case in options.cases:
        compare(case, options)


if __name__ == "__main__":
    main()
