"""Perplexity of the packaged language model without some of its heads or neurons.

    python -m benchmarks.layerwise_structures --data-dir DATA --out runs/layerwise_structures

The same calibration windows and text as in `benchmarks.layerwise_lm`. Two query heads share a key
and a value head, and are removed together. Wanda leaves the weights as they are; "the same,
refitted" are least squares on the columns that it keeps; OBS and ADMM choose themselves. Every
figure is a line of results.jsonl, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.kept import note, rows
from benchmarks.layerwise_lm import MODEL, texts
from robustprune.layerwise import prune_layerwise
from robustprune.lm import perplexity

RESIDUAL = {"target": "residual"}
METHODS: dict[str, dict[str, Any]] = {
    "Wanda": {"solver": "wanda"},
    "the same, refitted": {"solver": "refit", **RESIDUAL},
    "OBS": {"solver": "obs", **RESIDUAL},
    "ADMM": {"solver": "admm", **RESIDUAL},
}
LEVELS: dict[str, dict[str, Any]] = {
    "25% of heads": {"structure": "head", "density": 0.75},
    "25% of neurons": {"structure": "neuron", "density": 0.75},
    "50% of neurons": {"structure": "neuron", "density": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/layerwise_structures"))
    parser.add_argument("--seed", type=int, default=0, help="draws the calibration windows")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM

    args.out.mkdir(parents=True, exist_ok=True)
    model, data = AutoModelForCausalLM.from_pretrained(MODEL), texts(args.data_dir)
    found = {
        (row["method"], row["level"]): row["perplexity"]
        for row in rows(args.out)
        if row["seed"] == args.seed
    }
    for level, share in LEVELS.items():
        for method, options in METHODS.items():
            if (method, level) in found:
                continue
            began = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ticket = prune_layerwise(model, data.batches(args.seed), **share, **options)
            seconds = round(time.process_time() - began, 1)
            value = perplexity(ticket.model, data.evaluation).value
            found[method, level] = value
            row = {"method": method, "level": level, "seed": args.seed}
            note(args.out, {**row, "perplexity": value, "cpu_seconds": seconds})
    print("| | " + " | ".join(LEVELS) + " |\n| --- |" + " --- |" * len(LEVELS))
    for method in METHODS:
        print(f"| {method} | " + " | ".join(f"{found[method, x]:.4g}" for x in LEVELS) + " |")


if __name__ == "__main__":
    main()
