"""Are pruned language models less robust, and does calibration or recovery under attack help?

    python -m benchmarks.lm_robust --data-dir DATA --out runs/lm_robust
    python -m benchmarks.lm_robust --out runs/lm_robust --table

The packaged stories260K and the text of `benchmarks.layerwise_lm`. The adversary moves all word
embeddings of a window by δ with ‖δ‖_F ≤ ε, and PGD with 20 steps looks for the largest loss: upper
bounds on robustness. Networks see the same 64 windows of 256 tokens, so that differences are
paired; intervals are bootstraps over windows. Recovery trains all kept weights for 300 steps of 16
windows, on clean ones or on those of PGD with 3 steps. The last rows cut the cache of keys and
values of the dense model, token by token, on 32 windows of 64 tokens, under attacks with 10 steps
that look at the cut cache. Every figure is a line of results.jsonl, and the same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from attacks import PGD, ThreatModel
from benchmarks.kept import note, rows
from benchmarks.layerwise_lm import MODEL, Texts, texts
from robustprune.layerwise import prune_layerwise
from robustprune.lm import (
    AdversarialText,
    EmbeddedText,
    Eviction,
    HeavyHitters,
    Perplexity,
    Recent,
    adversarial_perplexity,
    embedded,
    evicting,
    perplexity,
    random_windows,
    token_loss,
)
from robustprune.minmax import OptimizerSpec
from robustprune.packing import words
from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.search import Ticket, finetune_ticket

EPS = (0.25, 0.5, 1.0)
TRAINED = 0.5  # ε of calibration and recovery
STEPS, BATCH, LENGTH = 300, 16, 256
WINDOWS, CUT_WINDOWS, CUT_LENGTH, CUT = 64, 32, 64, 16


def attack(eps: float, steps: int, seed: int = 0) -> PGD:
    threat = ThreatModel("l2", eps, support=words)
    return PGD(threat, loss=token_loss, steps=steps, seed=seed)


def pairs(ids: Tensor, width: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of windows with room for δ, and the labels 0 of `EmbeddedText`."""
    zeros = torch.zeros(size, dtype=torch.long)
    return [(embedded(part, width, bos=1), zeros[: len(part)]) for part in ids.split(size)]


def pruned(model: nn.Module, data: Texts, *, attacked: bool, sparsity: float) -> Ticket:
    text = EmbeddedText(model)
    ids = random_windows(data.calibration, LENGTH, 128, bos=1, seed=0)
    options: dict[str, Any] = {"attack": attack(TRAINED, 5), "clean": 0.5} if attacked else {}
    return prune_layerwise(
        text, pairs(ids, text.width, 32), density=1 - sparsity, solver="admm", target="residual",
        dense=("last",), **options,
    )  # fmt: skip


def recovered(ticket: Ticket, data: Texts, *, attacked: bool, steps: int = STEPS) -> Ticket:
    drawn = random_windows(data.calibration, LENGTH, steps * BATCH, bos=1, seed=1000)
    width = ticket.model.width
    spec = OptimizerSpec(name="adam", lr=2e-3, weight_decay=0.0, schedule="cosine")
    objective = AdversarialText(attack(TRAINED, 3) if attacked else None)
    loader = pairs(drawn, width, BATCH)
    return finetune_ticket(ticket, loader, objective, epochs=1, optimizer=spec, quiet=True)


def networks(model: nn.Module, data: Texts) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Each network by its name, with the function that makes it."""
    yield "dense", lambda: model

    def made(sparsity: float, attacked: bool, recovery: str | None) -> nn.Module:
        ticket = pruned(model, data, attacked=attacked, sparsity=sparsity)
        if recovery is not None:
            ticket = recovered(ticket, data, attacked=recovery == "attacked")
        return ticket.model.network

    for sparsity in (0.5, 0.7):
        for attacked, recovery in (
            (False, None), (True, None), (False, "clean"), (False, "attacked"),
        ):  # fmt: skip
            name = f"{sparsity:.0%}, calibrated on {'attacked' if attacked else 'clean'} windows"
            if recovery is not None:
                name = f"{sparsity:.0%}, recovered on {recovery} windows"
            yield name, lambda s=sparsity, a=attacked, r=recovery: made(s, a, r)
    yield "dense, trained on under attack", lambda: trained_on(model, data)


def trained_on(model: nn.Module, data: Texts) -> nn.Module:
    """The dense model after the same training under attack, as a control."""
    text = EmbeddedText(model)
    ticket = prune_layerwise(
        text,
        pairs(random_windows(data.calibration, LENGTH, 8, bos=1), text.width, 8),
        density=1.0,
        solver="magnitude",
    )
    return recovered(ticket, data, attacked=True).model.network


def measure(out: Path, folder: Path) -> None:
    model, data = AutoModelForCausalLM.from_pretrained(MODEL).eval(), texts(folder)
    ids = data.evaluation[:WINDOWS, :LENGTH]
    done = {(row["network"], row["eps"]) for row in rows(out)}
    for name, make in networks(model, data):
        if all((name, eps) in done for eps in (0.0, *EPS)):
            continue
        network = kept(out / f"{name}.safetensors", model, make)
        for eps in (0.0, *EPS):
            if (name, eps) in done:
                continue
            found = (
                adversarial_perplexity(network, ids, attack(eps, 20), bos=1)
                if eps
                else perplexity(network, ids)
            )
            keep(out, name, eps, found)
    short = data.evaluation[:CUT_WINDOWS, :CUT_LENGTH]
    rules: dict[str, Eviction | None] = {
        "whole cache": None,
        f"the last {CUT}": Recent(CUT, sinks=0),
        f"H2O, {CUT}": HeavyHitters(CUT // 2, CUT // 2, "mean"),
    }
    for name, rule in rules.items():
        for eps in (0.0, *EPS):
            if (name, eps) in done:
                continue
            with contextlib.ExitStack() as stack:
                cache = None if rule is None else stack.enter_context(evicting(model, rule))
                found = adversarial_perplexity(model, short, attack(eps, 10), bos=1, cache=cache)
            keep(out, name, eps, found)


def kept(path: Path, model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network, or fetch the one that was made before."""
    if path.exists():
        network = type(model)(model.config)
        network.load_state_dict(load_tensors(path)[0])
        return network.eval()
    network = make()
    save_tensors(path, {k: v.clone() for k, v in network.state_dict().items()}, {})
    return network.eval()


def keep(out: Path, name: str, eps: float, found: Perplexity) -> None:
    row = {"network": name, "eps": eps, "losses": [round(x, 6) for x in found.losses.tolist()]}
    note(out, row)
    print(f"{name}, eps {eps}: {found.value:.4g}", flush=True)


def table(found: list[dict[str, Any]]) -> str:
    """Perplexity at each ε, and how many nats more than the dense model lose under attack."""
    by = {(row["network"], row["eps"]): torch.tensor(row["losses"]).double() for row in found}
    names = list(dict.fromkeys(row["network"] for row in found))
    lines = [
        "| network | clean | " + " | ".join(f"ε = {eps:g}" for eps in EPS)
        + f" | added loss at {TRAINED:g}, nats | more than the first row |",
        "| --- " * (len(EPS) + 4) + "|",
    ]  # fmt: skip
    for name in names:
        first = "whole cache" if name in names and len(by[name, 0.0]) == CUT_WINDOWS else "dense"
        cells = [
            f"{float(by[name, eps].mean().exp()):.4g}" for eps in (0.0, *EPS) if (name, eps) in by
        ]
        added = by[name, TRAINED] - by[name, 0.0]
        more = added - (by[first, TRAINED] - by[first, 0.0])
        low, high = interval(more)
        cells += [
            f"{float(added.mean()):.3f}",
            "" if name == first else f"{float(more.mean()):+.3f} [{low:+.3f}, {high:+.3f}]",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(values: Tensor, draws: int = 5000) -> tuple[float, float]:
    """A 95% bootstrap interval of the mean of paired differences."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values[chosen].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/lm_robust"))
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if not args.table:
        if args.data_dir is None:
            parser.error("--data-dir is needed, the folder that holds TinyStories/tiny_stories.txt")
        args.out.mkdir(parents=True, exist_ok=True)
        measure(args.out, args.data_dir)
    print(table(rows(args.out)))


if __name__ == "__main__":
    main()
