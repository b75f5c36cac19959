"""Perplexity of the packaged language model while its key-value cache is cut.

    python -m benchmarks.lm_cache --data-dir DATA --out runs/lm_cache
    python -m benchmarks.lm_cache --out runs/lm_cache --table

DATA/TinyStories/tiny_stories.txt is the text; its last 20% gives 187 windows of BOS and 511 tokens.
Every window goes through the model token by token, with a cache of a fixed number of tokens. The
perplexity is that of the tokens from index 102 on, the same ones for every cache; "agreement" is
the share of them where the most probable next token is that of the full cache. Every figure is a
line of results.jsonl, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.kept import note, rows
from benchmarks.layerwise_lm import MODEL, texts
from robustprune.lm import (
    Eviction,
    HeavyHitters,
    Merging,
    QHitter,
    RandomTokens,
    Recent,
    Tova,
    evicting,
)

FIRST = 102  # index of the first token that counts
SIZES = (102, 51, 20)

RULES: Mapping[str, Callable[[int], Eviction]] = {
    "H2O": lambda size: HeavyHitters(size // 2, size - size // 2),
    "local": lambda size: Recent(size, sinks=0),
    "4 sinks + recent": lambda size: Recent(size - 4, sinks=4),
    "random + recent": lambda size: RandomTokens(size // 2, size - size // 2),
    "H2O, score / queries": lambda size: HeavyHitters(size // 2, size - size // 2, "mean"),
    "TOVA": lambda size: Tova(size),
    "Q-Hitter": lambda size: QHitter(
        round(0.35 * size), size - round(0.35 * size) - round(0.25 * size), round(0.25 * size)
    ),
}
#: options of `evicting` behind the name of a rule
MORE: Mapping[str, Callable[[], dict]] = {
    "": dict,
    ", 4 bits": lambda: {"bits": 4},
    ", 8 bits": lambda: {"bits": 8},
    ", merged": lambda: {"merging": Merging()},
    ", places in the cache": lambda: {"positions": "cache"},
}
#: perplexity and agreement of the authors' rules, written anew, on the same windows
REFERENCE = {
    ("full", 0): 4.465, ("H2O", 102): 4.598, ("local", 102): 4.556,
    ("4 sinks + recent", 102): 4.559, ("random + recent", 102): 4.567,
    ("H2O, score / queries", 102): 4.547, ("H2O", 51): 4.825, ("local", 51): 4.740,
    ("4 sinks + recent", 51): 4.757, ("random + recent", 51): 4.747,
    ("H2O, score / queries", 51): 4.735, ("H2O", 20): 5.600, ("local", 20): 5.151,
    ("4 sinks + recent", 20): 5.326, ("random + recent", 20): 5.212,
    ("H2O, score / queries", 20): 5.017,
}  # fmt: skip
ASKED = [
    *((rule, size) for size in SIZES for rule in RULES),
    *((f"H2O, score / queries{more}", 51) for more in (", 8 bits", ", 4 bits", ", merged")),
    *((f"Q-Hitter{more}", 51) for more in (", 4 bits",)),
    *((f"4 sinks + recent{more}", 51) for more in (", merged", ", places in the cache")),
]


@torch.no_grad()
def run(
    model: PreTrainedModel, windows: Tensor, rule: Eviction, **options: object
) -> tuple[Tensor, Tensor, int]:
    """Return losses and most probable tokens, (tokens, windows) each, and bytes of the cache."""
    losses, best = [], []
    with evicting(model, rule, **options) as new_cache:
        cache = new_cache()
        for place in range(windows.shape[1] - 1):
            logits = model(windows[:, place : place + 1], cache=cache).logits[:, -1]
            losses.append(F.cross_entropy(logits, windows[:, place + 1], reduction="none"))
            best.append(logits.argmax(-1))
    return torch.stack(losses)[FIRST - 1 :], torch.stack(best)[FIRST - 1 :], cache.nbytes


def measure(out: Path, folder: Path, limit: int | None) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    windows = texts(folder).evaluation[:limit]
    done = {(row["rule"], row["size"]) for row in rows(out)}
    path = out / "best.pt"
    if ("full", 0) not in done or not path.exists():
        losses, best, held = run(model, windows, Recent(windows.shape[1]))
        torch.save(best, path)
        note(out, {"rule": "full", "size": 0, **_figures(losses, best, best, held)})
    full = torch.load(path, weights_only=True)
    for name, size in ASKED:
        if (name, size) in done:
            continue
        rule, more = next((r, m) for r in RULES for m in MORE if f"{r}{m}" == name)
        started = time.process_time()
        losses, best, held = run(model, windows, RULES[rule](size), **MORE[more]())
        row = {"rule": name, "size": size, **_figures(losses, best, full, held)}
        note(out, {**row, "cpu_seconds": round(time.process_time() - started, 1)})
        print(row, flush=True)


def _figures(losses: Tensor, best: Tensor, full: Tensor, held: int) -> dict[str, float]:
    return {
        "perplexity": float(losses.double().mean().exp()),
        "agreement": float((best == full).double().mean()),
        "bytes": held // best.shape[1],
        "windows": best.shape[1],
    }


def table(found: list[dict]) -> str:
    """Perplexity (agreement) by rule and size; in brackets the ratio to the reference."""
    lines = ["| cache | " + " | ".join(f"{size} tokens" for size in SIZES) + " | bytes at 51 |"]
    lines.append("| --- " * (len(SIZES) + 2) + "|")
    by = {(row["rule"], row["size"]): row for row in found}
    if full := by.get(("full", 0)):
        lines.append(f"| all 511 tokens | {full['perplexity']:.3f} | | | {full['bytes']:,} |")
    for name in dict.fromkeys(row["rule"] for row in found if row["size"]):
        cells = []
        for size in SIZES:
            row = by.get((name, size))
            ratio = REFERENCE.get((name, size))
            cell = "" if row is None else f"{row['perplexity']:.3f} ({row['agreement']:.3f})"
            cells.append(cell + (f" [{row['perplexity'] / ratio:.3f}]" if row and ratio else ""))
        held = f"{by[name, 51]['bytes']:,}" if (name, 51) in by else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {held} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/lm_cache"))
    parser.add_argument("--windows", type=int, help="how many; all by default")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    if not args.table:
        if args.data_dir is None:
            parser.error("--data-dir is needed, the folder that holds TinyStories/tiny_stories.txt")
        args.out.mkdir(parents=True, exist_ok=True)
        measure(args.out, args.data_dir, args.windows)
    print(table(rows(args.out)))


if __name__ == "__main__":
    main()
