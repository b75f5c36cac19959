"""Pruned, rounded, and with a cut cache at once: perplexity, size and speed of the packaged model.

    OMP_NUM_THREADS=1 python -m benchmarks.lm_combined --data-dir DATA

Text and windows are those of `benchmarks.layerwise_lm`, the cut cache and the tokens that count
those of `benchmarks.lm_cache` (on `--windows` windows). Weights: all linear layers but the last are
pruned by ADMM (target residual, outputs and layers by Fisher information) and rounded. The size is
computed, not measured: for each weight that is left its bits, for each weight of a pruned layer one
bit that says whether it is there, 4 bytes of scale and offset a row of a rounded layer, and 4 bytes
for every other parameter. Keys and values are what the cache holds after a window, measured. The
speed is tokens a second of one text in plain torch, which uses neither zeros nor few bits.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.layerwise_lm import FISHER, MODEL, texts
from benchmarks.lm_cache import run
from robustprune.layerwise import prune_layerwise
from robustprune.lm import Eviction, HeavyHitters, Recent, decode_speed, evicting
from robustprune.sparsity import MaskSet

ROWS: tuple[tuple[str, float, int | None, int | None], ...] = (
    # name, density, bits of a weight, tokens in the cache
    ("dense", 1.0, None, None),
    ("50%", 0.5, None, None),
    ("4 bits", 1.0, 4, None),
    ("cache of 51 tokens", 1.0, None, 51),
    ("50%, 4 bits", 0.5, 4, None),
    ("50%, cache", 0.5, None, 51),
    ("4 bits, cache", 1.0, 4, 51),
    ("50%, 4 bits, cache", 0.5, 4, 51),
    ("50%, 4 bits, cache in 8 bits", 0.5, 4, -51),
)


def size(model: nn.Module, masks: MaskSet | None, bits: int | None) -> int:
    """Bytes by the rule of the module's docstring."""
    named = dict(masks or {})
    total = 0.0
    for name, parameter in model.named_parameters():
        mask = named.get(name)
        if mask is None:
            total += 4 * parameter.numel()
            continue
        kept = int(mask.sum())
        total += kept * (bits or 32) / 8
        total += mask.numel() / 8 if kept < mask.numel() else 0
        total += 4 * len(mask) if bits else 0
    return round(total)


def rule_of(tokens: int) -> Eviction:
    return HeavyHitters(tokens // 2, tokens - tokens // 2, "mean")


def speed(model: PreTrainedModel, held: int | None) -> float:
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(evicting(model, rule_of(abs(held)))) if held else None
        found = decode_speed({"model": model}, prompt=102, tokens=32, cache=cache)
    return found["model"].tokens_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=48)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    dense, data = AutoModelForCausalLM.from_pretrained(MODEL), texts(args.data_dir)
    made: dict[tuple[float, int | None], tuple[PreTrainedModel, MaskSet | None]] = {}
    made[1.0, None] = (dense, None)
    print("| | perplexity | weights, bytes | keys and values, bytes | tokens a second |")
    print("| --- " * 5 + "|")
    for name, density, bits, held in ROWS:
        if (density, bits) not in made:
            options: dict[str, Any] = dict(FISHER)
            if density < 1:
                options["allocate"] = "global"
            if density == 1:
                options["solver"] = "sparsegpt"
            ticket = prune_layerwise(
                dense, data.batches(0), density=density, dense=("last",), quantise=bits, **options
            )
            made[density, bits] = (ticket.model, ticket.masks)
        model, masks = made[density, bits]
        windows = data.evaluation[: args.windows]
        rule = rule_of(abs(held)) if held else Recent(windows.shape[1])
        extra = {"bits": 8} if held and held < 0 else {}
        losses, _, kept = run(model, windows, rule, **extra)
        cells = [
            f"{float(losses.double().mean().exp()):.3f}",
            f"{size(model, masks, bits):,}",
            f"{kept // len(windows):,}",
            f"{speed(model, held):.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
