"""What compression changes in the packaged language model besides perplexity.

    python -m benchmarks.compression_lm --data-dir DATA --out runs/trust_lm
    python -m benchmarks.compression_lm --out runs/trust_lm --table

Text, calibration and methods are those of `benchmarks.layerwise_lm`. Each network is compared with
the dense one by the measures of `robustprune trust`: likelihood and calibration of the next token
on windows of the test text, cloze questions of that text, and repetition in greedy continuations.
Each comparison is a line of results.jsonl, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.compression_tables import ROUNDED, first, table
from benchmarks.kept import note, rows
from benchmarks.layerwise_lm import BLOCK, MODEL, RESIDUAL, Texts, parts, texts
from robustprune.layerwise import prune_layerwise
from robustprune.lm import windows
from robustprune.measure import TextTokens, cloze_questions, compare_trust_causal

WINDOWS, QUESTIONS = 64, 500
#: the options of `prune_layerwise` by method
METHODS: dict[str, dict[str, Any]] = {
    "ours": RESIDUAL,
    ROUNDED: {"solver": "magnitude", "density": 1.0, **BLOCK},
    "ours, 2:4": {**RESIDUAL, "pattern": "2:4"},
    "wanda": {"solver": "wanda", "allocate": "row", **BLOCK},
}
LEVELS: dict[str, tuple[float, ...]] = {
    "ours": (0.75, 0.7, 0.5, 0.3),
    ROUNDED: (8, 4, 3),
    "ours, 2:4": (0.5,),
    "wanda": (0.75, 0.7, 0.5),
}
SHOWN = {
    "negative log-likelihood per token": "NLL",
    "next token right": "next token",
    "last word chosen of 4": "last word, of 4",
    "last word said": "last word said",
    "calibration error (ECE) of the next token": "ECE",
    "repeated 4-grams": "repeated 4-grams",
    "distinct 2-grams": "distinct 2-grams",
}


class Remembered(nn.Module):
    """A language model that computes the logits of the same tokens once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: dict[bytes, Tensor] = {}

    def forward(self, ids: Tensor) -> Tensor:
        key = repr(tuple(ids.shape)).encode() + ids.numpy().tobytes()
        if key not in self.seen:
            self.seen[key] = self.model(ids).logits
        return self.seen[key]


def compressed(model: nn.Module, data: Texts, method: str, level: float) -> nn.Module:
    """The language model, compressed by a method at a level."""
    options = dict(METHODS[method])
    options["quantise" if method == ROUNDED else "density"] = (
        int(level) if method == ROUNDED else level
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prune_layerwise(model, data.batches(0), dense=("last",), **options).model


def run(options: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options.out.mkdir(parents=True, exist_ok=True)
    done = {(row["method"], row["level"]) for row in rows(options.out)}
    model, tokenizer = (
        kind.from_pretrained(MODEL) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    data, (_, last) = texts(options.data_dir), parts(options.data_dir)

    def tokens(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    seen = windows(tokens(last), 256, bos=1)[:WINDOWS]
    questions = cloze_questions(last, QUESTIONS)
    dense = Remembered(model)
    for method in options.methods:
        for level in LEVELS[method]:
            if (method, level) in done:
                continue
            started = time.process_time()
            network = compressed(model, data, method, level)
            found = compare_trust_causal(
                dense, network, seen, questions=questions, text=TextTokens(tokens, 1)
            )
            changes = {(figure := asdict(one)).pop("name"): figure for one in found}
            note(options.out, {
                "seed": 0, "method": method, "level": level, "n": len(seen),
                "seconds": time.process_time() - started, "changes": changes,
            })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/trust_lm"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    if not options.table:
        run(options)
    found = rows(options.out)
    print(f"{table(found, SHOWN)}\n\n{first(found)}")


if __name__ == "__main__":
    main()
