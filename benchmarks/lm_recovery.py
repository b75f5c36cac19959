"""Perplexity of the packaged language model, pruned and then recovered.

    python -m benchmarks.lm_recovery --data-dir DATA --out runs/lm_recovery
    python -m benchmarks.lm_recovery --out runs/lm_recovery --table

Text, windows and pruning are those of `benchmarks.layerwise_lm`. Recovery is 300 steps of Adam on
16 random windows of 256 tokens of the first 60% of the text: adapters of rank 8 under the mask
("masked LoRA", as sparse as before when merged); without it by peft ("plain LoRA", dense when
merged; and masked afterwards); prompts of 16 tokens in every layer, or as many in all, in
proportion to what a layer has lost; and training of all weights under the mask. "In 3 rounds":
pruned a little, recovered and pruned on (`prune_in_rounds`), a third of the steps in each round.
Every figure is a line of results.jsonl, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM

from benchmarks.kept import note, rows
from benchmarks.layerwise_lm import METHODS, MODEL, Texts, prune, texts
from robustprune.lm import (
    next_token_batches,
    perplexity,
    prune_in_rounds,
    random_windows,
    tune_adapters,
    tune_lora,
    tune_prompts,
)
from robustprune.minmax import Natural, OptimizerSpec
from robustprune.search import Ticket, finetune_ticket
from robustprune.sparsity import apply_masks, bake

STEPS, BATCH, LENGTH = 300, 16, 256
PRUNED = {"Wanda": "wanda", "ours": "global"}
REFERENCE = {
    ("Wanda", "50%", "masked LoRA"): 6.425, ("Wanda", "2:4", "masked LoRA"): 8.317,
    ("Wanda", "50%", "plain LoRA"): 6.015, ("Wanda", "2:4", "plain LoRA"): 7.524,
    ("Wanda", "50%", "plain LoRA, then masked"): 10.28,
    ("Wanda", "2:4", "plain LoRA, then masked"): 18.95,
    ("Wanda", "50%", "all kept weights"): 5.957, ("Wanda", "2:4", "all kept weights"): 7.531,
}  # fmt: skip
ROUNDS = 3
LEVELS = ("50%", "2:4", "70%", "80%", "90%")
ASKED = [
    *((name, level, how) for name in PRUNED for level in LEVELS for how in ("none", "masked LoRA")),
    *(("ours", level, "all kept weights") for level in LEVELS),
    *(("ours", level, f"{how}, in {ROUNDS} rounds")
      for level in LEVELS[2:] for how in ("all kept weights", "masked LoRA")),
    *(("Wanda", level, how)
      for level in LEVELS[:2] for how in ("plain LoRA", "plain LoRA, then masked")),
    *(("ours", level, how)
      for level in ("50%", "70%") for how in ("prompts", "prompts of one length")),
    *(("Wanda", level, "all kept weights") for level in LEVELS),
    *(("ours", level, "prompts") for level in ("2:4", "80%", "90%")),
]  # fmt: skip


def pruned(model: nn.Module, data: Texts, name: str, level: str, seed: int) -> Ticket:
    """Prune by a row of `benchmarks.layerwise_lm`."""
    # N:M keeps as many weights in every layer, so that nothing is compared between layers
    method = METHODS["fisher" if name == "ours" and ":" in level else PRUNED[name]]
    return prune(model, data, method, level, seed)


def tuned(
    ticket: Ticket, data: Texts, how: str, lr: float, seed: int, steps: int = STEPS
) -> Ticket:
    """Train a pruned network in one of the ways of the table."""
    drawn = random_windows(data.calibration, LENGTH, steps * BATCH, bos=1, seed=seed + 1000)
    spec = OptimizerSpec(name="adam", lr=lr, weight_decay=0.0, schedule="cosine")
    loader = next_token_batches(drawn, BATCH)
    asked: dict[str, Any] = {"epochs": 1, "optimizer": spec, "quiet": True}
    if how.startswith("all kept weights"):
        return finetune_ticket(ticket, loader, Natural(), **asked)
    if how.startswith("prompts"):
        lengths: Any = "sparsity" if how == "prompts" else "alike"
        return tune_prompts(ticket, loader, Natural(), lengths=lengths, **asked)
    tune = tune_lora if how.startswith("plain") else tune_adapters
    found = tune(ticket, loader, Natural(), seed=seed, **asked)
    if how.endswith("then masked"):
        apply_masks(found.model, ticket.masks)
        bake(found.model)
    return found


def recovered(
    model: nn.Module, data: Texts, name: str, level: str, how: str, lr: float, seed: int
) -> Ticket:
    """Prune and train, at once or in rounds."""
    if not how.endswith("rounds"):
        ticket = pruned(model, data, name, level, seed)
        return ticket if how == "none" else tuned(ticket, data, how, lr, seed)
    return prune_in_rounds(
        model,
        lambda network, density: pruned(network, data, name, f"{100 * (1 - density)}%", seed),
        lambda ticket, number: tuned(ticket, data, how, lr, seed + 100 * number, STEPS // ROUNDS),
        density=round(1 - float(level.rstrip("%")) / 100, 6),
        rounds=ROUNDS,
    )


def measure(out: Path, folder: Path, lr: dict[str, float], seed: int, ways: list[str]) -> None:
    model, data = AutoModelForCausalLM.from_pretrained(MODEL), texts(folder)
    done = {(row["pruned"], row["level"], row["how"], row["seed"]) for row in rows(out)}
    for name, level, how in ASKED:
        if (name, level, how, seed) in done or how not in ways:
            continue
        began = time.process_time()
        rate = lr["all"] if how.startswith("all kept weights") else lr["adapters"]
        ticket = recovered(model, data, name, level, how, rate, seed)
        network = ticket.model
        zeros = sum(int((network.get_parameter(n) == 0).sum()) for n in ticket.masks)
        row = {
            "pruned": name, "level": level, "how": how, "seed": seed, "lr": rate,
            "perplexity": perplexity(network, data.evaluation).value,
            "zeros": zeros / sum(mask.numel() for mask in ticket.masks.values()),
            "cpu_seconds": round(time.process_time() - began, 1),
        }  # fmt: skip
        note(out, row)
        print(row, flush=True)


def table(found: list[dict]) -> str:
    """Perplexity by what pruned and what recovered; in brackets the ratio to the reference."""
    names = list(dict.fromkeys((row["pruned"], row["how"]) for row in found))
    lines = [f"| | | {' | '.join(LEVELS)} |", "| --- " * (len(LEVELS) + 2) + "|"]
    show: Callable[[float], str] = lambda value: f"{value:.4g}"  # noqa: E731
    for name, how in names:
        cells = []
        for level in LEVELS:
            values = [
                row["perplexity"]
                for row in found
                if (row["pruned"], row["how"], row["level"]) == (name, how, level)
            ]
            wanted = REFERENCE.get((name, level, how))
            cell = show(sum(values) / len(values)) if values else ""
            cells.append(cell + (f" [{values[0] / wanted:.3f}]" if values and wanted else ""))
        lines.append(f"| {name} | {how} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/lm_recovery"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-2, help="rate of adapters and prompts")
    parser.add_argument("--lr-all", type=float, default=2e-3, help="rate of all kept weights")
    ways = list(dict.fromkeys(how for *_, how in ASKED))
    parser.add_argument("--how", nargs="+", choices=ways, default=ways, help="only these rows")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    if not args.table:
        if args.data_dir is None:
            parser.error("--data-dir is needed, the folder that holds TinyStories/tiny_stories.txt")
        args.out.mkdir(parents=True, exist_ok=True)
        rates = {"adapters": args.lr, "all": args.lr_all}
        measure(args.out, args.data_dir, rates, args.seed, args.how)
    print(table(rows(args.out)))


if __name__ == "__main__":
    main()
