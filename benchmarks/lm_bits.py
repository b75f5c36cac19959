"""Perplexity of the packaged language model with few bits a weight, dense and pruned to a half.

    python -m benchmarks.lm_bits --data-dir DATA

Text, windows and peers' conventions are those of `benchmarks.layerwise_lm`; all linear layers but
the last are rounded. RTN rounds to the nearest value, GPTQ lets later columns make up for it.
`REFERENCE` is what the authors' functions give on the same windows.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from benchmarks.layerwise_lm import BLOCK, FISHER, MODEL, RESIDUAL, texts
from robustprune.layerwise import prune_layerwise
from robustprune.lm import perplexity

GPTQ = {"solver": "sparsegpt", "density": 1.0}
ROWS: dict[str, dict[str, Any]] = {
    "RTN": {"solver": "magnitude", "density": 1.0, **BLOCK},
    "GPTQ": {**GPTQ, **BLOCK},
    "GPTQ, target residual": {**GPTQ, "target": "residual"},
    "half of the weights: SparseGPT + GPTQ": {"solver": "sparsegpt", "density": 0.5, **BLOCK},
    "half of the weights: ADMM, residual, Fisher, global": {
        **RESIDUAL, **FISHER, "density": 0.5, "allocate": "global",
    },
}  # fmt: skip
BITS = (8, 4, 3)
REFERENCE = {
    ("RTN", 8): 4.823, ("RTN", 4): 5.370, ("RTN", 3): 12.55, ("GPTQ", 8): 4.816,
    ("GPTQ", 4): 5.214, ("GPTQ", 3): 8.150, ("half of the weights: SparseGPT + GPTQ", 4): 21.71,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model, data = AutoModelForCausalLM.from_pretrained(MODEL), texts(args.data_dir)
    print("| | " + " | ".join(f"{bits} bits" for bits in BITS) + " |")
    print("| --- " * (len(BITS) + 1) + "|")
    for name, options in ROWS.items():
        cells = []
        for bits in BITS:
            ticket = prune_layerwise(
                model, data.batches(args.seed), dense=("last",), quantise=bits, **options
            )
            found = perplexity(ticket.model, data.evaluation).value
            wanted = REFERENCE.get((name, bits))
            cells.append(f"{found:.4g}" + (f" [{found / wanted:.3f}]" if wanted else ""))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
