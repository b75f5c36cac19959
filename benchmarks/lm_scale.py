"""How long would it take to prune a model of 7 billion weights? Measured at three sizes, predicted.

    OMP_NUM_THREADS=1 python -m benchmarks.lm_scale

One block of a Llama with random weights, of three widths, each with two amounts of calibration
text, is pruned to a half. With P weights in a block, c inputs and r outputs of a matrix, and n
tokens, the CPU seconds are fitted, without negative parts, by

    a n P  +  b n Σ c²  +  d Σ (c³ + r c²),

the passes, the Gram matrices and the solver. The fit of the two smaller widths is first compared
with the largest. The prediction is for 32 blocks of width 4096 with 11,008 neurons and 128 windows
of 2,048 tokens, on the same one thread; without embedding and output layer, which stay whole.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import LlamaConfig, LlamaForCausalLM

from robustprune.layerwise import prune_layerwise

WIDTHS = (256, 512, 1024)
LENGTH = 512
WINDOWS = (4, 8)
WAYS: dict[str, dict[str, Any]] = {
    "SparseGPT, target own": {"solver": "sparsegpt", "target": "own", "after": "block"},
    "ADMM, target residual": {"solver": "admm", "target": "residual"},
}


def neurons(width: int) -> int:
    """As in LLaMA-7B: 2.6875 times the width."""
    return int(2.6875 * width)


def terms(width: int, tokens: float) -> list[float]:
    """What the three parts of the seconds of a block grow with."""
    inner = neurons(width)
    weights = 4 * width**2 + 3 * width * inner
    grams = 3 * width**2 + inner**2  # q, k, v share one, and so do gate and up
    matrices = [(width, width)] * 4 + [(inner, width)] * 2 + [(width, inner)]
    solving = sum(c**3 + r * c**2 for r, c in matrices)
    return [tokens * weights, tokens * grams, float(solving)]


def seconds(width: int, windows: int, options: dict[str, Any]) -> float:
    """The CPU seconds of pruning one block."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=width, intermediate_size=neurons(width), num_hidden_layers=1,
        num_attention_heads=width // 64, num_key_value_heads=width // 64,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    data = [{"input_ids": torch.randint(3, 500, (4, LENGTH))} for _ in range(windows // 4)]
    began = time.process_time()
    prune_layerwise(model, data, density=0.5, dense=("last",), **options)
    return time.process_time() - began


def fit(found: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """a, b and d, by least squares of relative errors."""
    matrix = np.array([terms(width, LENGTH * windows) for width, windows, _ in found])
    took = np.array([value for _, _, value in found])
    scale = matrix.max(0)
    return nnls(matrix / scale / took[:, None], np.ones(len(took)))[0] / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    head = [f"{width} wide, {LENGTH * windows} tokens" for width in WIDTHS for windows in WINDOWS]
    print(f"| | {' | '.join(head)} | largest / predicted from the others | 7B, hours |")
    print("| --- " * (len(head) + 3) + "|")
    for name, options in WAYS.items():
        found = [
            (width, windows, min(seconds(width, windows, options) for _ in range(args.repeats)))
            for width in WIDTHS
            for windows in WINDOWS
        ]
        smaller = fit([row for row in found if row[0] < WIDTHS[-1]])
        width, windows, took = found[-1]
        ratio = took / float(smaller @ np.array(terms(width, LENGTH * windows)))
        hours = 32 * float(fit(found) @ np.array(terms(4096, 128 * 2048))) / 3600
        cells = [f"{value:.2f} s" for _, _, value in found]
        print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} | {hours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
