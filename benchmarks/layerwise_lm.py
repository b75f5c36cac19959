"""Perplexity of the packaged language model, pruned without training by peers' methods and ours.

    python -m benchmarks.layerwise_lm --data-dir DATA --out runs/layerwise_lm --seeds 0 1 2
    python -m benchmarks.layerwise_lm --out runs/layerwise_lm --table

DATA/TinyStories/tiny_stories.txt is a text of 942,640 characters. Layers are calibrated on 128
random windows of 256 tokens of its first 60%, and the perplexity is that of the 187 windows of 512
tokens of its last 20%; embedding and output layer stay whole. Every figure is a line of
results.jsonl, and the same command goes on where it stopped.

The methods of papers see what their authors' code shows them: X̂ of the network pruned up to a
layer's block, and T = W X̂. `REFERENCE` has what that code gives on the same windows (seed 0).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import robustprune
from benchmarks.kept import note, rows
from robustprune.layerwise import Owl, prune_layerwise
from robustprune.lm import perplexity, random_windows, windows
from robustprune.search import Ticket

MODEL = Path(robustprune.__file__).parent / "data" / "lm" / "stories260K"
LEVELS = ("30%", "50%", "60%", "70%", "80%", "2:4", "4:8")
SHARES = LEVELS[:5]


@dataclass(frozen=True)
class Method:
    """A row of the table: the options of `prune_layerwise`, and at which levels it is measured."""

    title: str
    options: dict[str, Any] = field(default_factory=dict)
    levels: tuple[str, ...] = LEVELS
    by_row: bool = False


BLOCK: dict[str, Any] = {"target": "own", "after": "block"}
PEERS = {
    "magnitude": Method("magnitude", {"solver": "magnitude", **BLOCK}),
    "wanda": Method("Wanda", {"solver": "wanda", **BLOCK}, by_row=True),
    "sparsegpt": Method("SparseGPT", {"solver": "sparsegpt", **BLOCK}),
    "owl-wanda": Method(
        "OWL + Wanda", {"solver": "wanda", "by_row": True, "allocate": Owl(), **BLOCK}, SHARES[:4]
    ),
    "owl-sparsegpt": Method(
        "OWL + SparseGPT", {"solver": "sparsegpt", "allocate": Owl(), **BLOCK}, SHARES[:4]
    ),
    "dsnot": Method(
        "DSnoT from Wanda, 1 cycle",
        {"solver": "dsnot", "cycles": 1, **BLOCK},
        (*SHARES[1:4], "2:4"),
        by_row=True,
    ),
    "admm": Method("ADMM (Boža)", {"solver": "admm", **BLOCK}),
    "alps": Method("ALPS", {"solver": "alps", **BLOCK}),
}
RESIDUAL: dict[str, Any] = {"solver": "admm", "target": "residual"}
FISHER = {**RESIDUAL, "outputs": "fisher"}
OURS = {
    "dense": Method("ADMM, target dense", {**RESIDUAL, "target": "dense"}),
    "residual": Method("ADMM, target residual", RESIDUAL),
    "fisher": Method("the same, outputs by Fisher information", FISHER),
    "global": Method("the same, layers too", {**FISHER, "allocate": "global"}, SHARES),
}
METHODS = {**PEERS, **OURS}
DENSE = 4.8163
#: perplexity that the authors' functions give, at LEVELS. Their 4:8 prunes all of the last 4 of 172
#: inputs, where ours keeps 2 of them; their magnitude prunes one weight more in each matrix
REFERENCE: dict[str, tuple[float | None, ...]] = {
    "magnitude": (6.707, 41.77, 76.69, 351.9, 611.7, 122.4, 86.82),
    "wanda": (6.031, 19.99, 48.74, 158.2, 652.2, 65.93, 41.85),
    "sparsegpt": (5.909, 19.93, 49.34, 103.4, 227.5, 31.99, 28.48),
    "owl-wanda": (5.938, 18.36, 48.81, 117.0, None, None, None),
    "owl-sparsegpt": (5.887, 17.59, 42.76, 95.07, None, None, None),
    "dsnot": (None, 19.79, 51.27, 147.9, None, 64.42, None),
    "admm": (5.589, 13.04, 30.44, 58.01, 89.37, 24.71, None),
    "alps": (5.555, 12.97, 28.42, 59.78, 87.65, 23.37, None),
}


@dataclass(frozen=True)
class Texts:
    """Tokens to calibrate on, and (187, 512) windows to be measured on."""

    calibration: list[int]
    evaluation: Tensor

    def batches(self, seed: int) -> list[dict[str, Tensor]]:
        drawn = random_windows(self.calibration, 256, 128, bos=1, seed=seed)
        return [{"input_ids": ids} for ids in drawn.split(32)]


def parts(folder: Path) -> tuple[str, str]:
    """The text to calibrate on, and the text to be measured on."""
    with open(folder / "TinyStories" / "tiny_stories.txt", encoding="utf-8", newline="") as file:
        text = file.read()
    return text[: int(0.6 * len(text))], text[int(0.8 * len(text)) :]


def texts(folder: Path) -> Texts:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokens = [
        tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for part in parts(folder)
    ]
    return Texts(tokens[0], windows(tokens[1], 512, bos=1))


def prune(model: nn.Module, data: Texts, method: Method, level: str, seed: int) -> Ticket:
    """Prune by a row of the table; a level is a share such as 50%, or N:M."""
    options = dict(method.options)
    if level.endswith("%"):
        options["density"] = round(1 - float(level[:-1]) / 100, 6)
        if method.by_row:
            options["allocate"] = "row"
    else:
        options |= {"density": 0.5, "pattern": level}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prune_layerwise(model, data.batches(seed), dense=("last",), **options)


def measure(model: nn.Module, data: Texts, name: str, level: str, seed: int) -> dict[str, object]:
    """Prune and measure once."""
    began = time.process_time()
    ticket = prune(model, data, METHODS[name], level, seed)
    return {
        "method": name,
        "level": level,
        "seed": seed,
        "perplexity": perplexity(ticket.model, data.evaluation).value,
        "sparsity": 1 - ticket.masks.density,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def table(found: list[dict], names: Iterable[str]) -> str:
    """The table in Markdown: the median over seeds, (smallest–largest) where there are more, and
    the ratio to the reference at seed 0 where there is one."""
    lines = [
        "| | " + " | ".join(LEVELS) + " |",
        "| --- |" + " --- |" * len(LEVELS),
    ]
    for name in names:
        cells = []
        for place, level in enumerate(LEVELS):
            values = {
                row["seed"]: row["perplexity"]
                for row in found
                if (row["method"], row["level"]) == (name, level)
            }
            cell = _cell(list(values.values()))
            reference = REFERENCE.get(name, (None,) * len(LEVELS))[place]
            if reference is not None and 0 in values:
                cell += f" [{values[0] / reference:.3f}]"
            cells.append(cell)
        if any(cells):
            lines.append(f"| {METHODS[name].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    show: Callable[[float], str] = lambda value: f"{value:.4g}"  # noqa: E731
    ends = f" ({show(min(values))}–{show(max(values))})" if len(values) > 1 else ""
    return show(statistics.median(values)) + ends


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/layerwise_lm"))
    names = [*METHODS, "peers", "ours"]
    parser.add_argument("--methods", nargs="+", default=["peers", "ours"], choices=names)
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=LEVELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    groups = {"peers": list(PEERS), "ours": list(OURS)}
    chosen = list(dict.fromkeys(m for given in args.methods for m in groups.get(given, [given])))
    if args.table:
        print(table(rows(args.out), chosen))
        return
    if args.data_dir is None:
        parser.error("--data-dir is needed, the folder that holds TinyStories/tiny_stories.txt")
    from transformers import AutoModelForCausalLM

    args.out.mkdir(parents=True, exist_ok=True)
    model, data = AutoModelForCausalLM.from_pretrained(MODEL), texts(args.data_dir)
    found = perplexity(model, data.evaluation).value
    if abs(found / DENSE - 1) > 1e-4:
        parser.error(f"the dense perplexity is {found:.4f}, not {DENSE}: another text or tokenizer")
    done = {(row["method"], row["level"], row["seed"]) for row in rows(args.out)}
    for seed in args.seeds:
        for name in chosen:
            for level in (level for level in args.levels if level in METHODS[name].levels):
                if (name, level, seed) not in done:
                    row = measure(model, data, name, level, seed)
                    note(args.out, row)
                    print(row, flush=True)


if __name__ == "__main__":
    main()
