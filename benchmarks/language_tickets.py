"""Robust tickets of MiniLM on SST-2 against its fine-tuned, magnitude, random and re-initialised
ones: clean accuracy, accuracy under embedding PGD, accuracy under attacks on the text itself.

    python -m benchmarks.language_tickets --data-dir DATA --out runs/language --seeds 0

Networks are kept under --out as they are trained, and every figure is a line of results.jsonl as
soon as it is measured; the same command goes on where it stopped. `--table` prints what is there.
Sized for one thread: the 14,000 training phrases of 17 tokens and more, once each (sentences of dev
are as long; most of the training set are fragments of few words), and 100 sentences of dev for the
attacks on text.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from attacks import PGD, ThreatModel
from benchmarks.kept import note, rows
from benchmarks.language_networks import DRAWN, FREELB, FURTHER, KINDS, MODELS, Bench
from benchmarks.language_tables import paired, table
from robustprune.measure import evaluate
from robustprune.models import (
    SentenceTokenizer,
    sentence_classifier,
)
from robustprune.packing import words
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.runtime import choose_device
from robustprune.tasks import text_task


def embedding_figures(bench: Bench, model: nn.Module) -> dict[str, Any]:
    """Clean accuracy on all that is measured, accuracy under PGD on the first sentences of it."""
    device = bench.options.device
    x, y = (part.to(device) for part in bench.measured.batch(slice(None)))
    clean = evaluate(model, x, y, {}, batch_size=64)
    x, y = x[: bench.options.pgd_sentences], y[: bench.options.pgd_sentences]
    figures = {"clean": float(clean.clean.float().mean())}
    for eps in bench.options.pgd_eps:
        attack = PGD(ThreatModel("l2", eps, support=words), steps=10, seed=0)
        outcome = evaluate(model, x, y, {"pgd": attack}, batch_size=50)
        figures[f"pgd eps={eps:g}"] = float(outcome.worst.float().mean())
    return {"figures": figures}


def text_figures(bench: Bench, model: nn.Module, name: str) -> dict[str, Any]:
    """Accuracy under one attack on the text itself, its mean queries, and which sentences stand."""
    from attacks import text

    options: dict[str, object] = {"queries": bench.options.queries}
    if name in ("text_fooler", "text_bugger"):  # the ones that compare sentences
        options["embed"] = text.minilm(device=bench.options.device)
    attack = getattr(text, name)(**options)
    classify = sentence_classifier(model, SentenceTokenizer(max_length=64), amp=bench.options.amp)
    count = bench.options.text_sentences
    sentences, labels = bench.texts()
    results = attack(classify, sentences[:count], labels[:count])
    result = text.summarise(results)
    return {
        "figures": {name: result.accuracy_under_attack, f"{name} queries": result.mean_queries},
        "stand": [at for at, each in enumerate(results) if each.status == "failed"],
    }


def measured_rows(out: Path, on: str) -> list[dict]:
    return [row for row in rows(out) if "figures" in row and row.get("on", "dev") == on]


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    task = text_task("sst2", SentenceTokenizer(max_length=64), data_dir=options.data_dir)
    done = {
        (row["seed"], row["model"], row["part"]) for row in measured_rows(options.out, options.on)
    }
    parts: list[tuple[str, Callable[[Bench, nn.Module], dict[str, Any]]]] = [
        ("embedding", embedding_figures),
        *(
            (name, lambda b, m, name=name: text_figures(b, m, name))  # type: ignore[misc]
            for name in options.attacks
        ),
    ]
    for seed in options.seeds:
        bench = Bench(options, task, seed)
        for name in options.models:
            missing = [part for part in parts if (seed, name, part[0]) not in done]
            if not missing:
                continue
            model, masks = bench.model(name)
            for part, measure in missing:
                started = time.monotonic()
                measured = measure(bench, model.eval())
                note(options.out, {
                    "seed": seed, "model": name, "part": part, "on": options.on,
                    "density": masks.density, **measured,
                    "seconds": time.monotonic() - started,
                })  # fmt: skip


def share_kept(given: str) -> float | None:
    return None if given == "density" else float(given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="holds SST-2/train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, default=Path("runs/language"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--models", nargs="+", default=MODELS, choices=KINDS + FREELB + DRAWN + FURTHER
    )
    parser.add_argument("--sentences", type=int, default=15_000, help="of training, at most")
    parser.add_argument("--least-tokens", type=int, default=17, help="of a training sentence")
    parser.add_argument("--epochs", type=int, default=1, help="of every fine-tuning")
    parser.add_argument("--lr", type=float, default=1e-4, help="of every fine-tuning")
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--eps", type=float, default=0.2, help="of the search")
    parser.add_argument("--steps", type=int, default=3, help="of the search's PGD; 0: none")
    parser.add_argument("--step-size", type=float, default=0.1)
    parser.add_argument("--penalty", type=float, default=0.5, help="λ")
    parser.add_argument(
        "--kept",
        type=share_kept,
        default=0.99,
        help="P(m ≠ 0) at first; 0.9 scales every weight by 0.7; density: R(m) starts there",
    )
    parser.add_argument(
        "--spread", type=float, default=3.0, help="of first scores by the rank of |w|"
    )
    parser.add_argument("--mask-lr", type=float, default=0.1)
    parser.add_argument("--search-epochs", type=int, default=1)
    parser.add_argument("--search-sentences", type=int, default=4_000)
    parser.add_argument(
        "--search-words",
        type=float,
        default=0.0,
        help="before the search's PGD exchange up to this part of a sentence's words for synonyms",
    )
    parser.add_argument("--search-words-by", default="chance", choices=["chance", "gradient"])
    parser.add_argument("--tuning-eps", type=float, default=0.3, help="of FreeLB fine-tuning")
    parser.add_argument("--tuning-steps", type=int, default=2)
    parser.add_argument(
        "--tuning-words",
        type=float,
        default=0.0,
        help="before FreeLB exchange up to this part of each sentence's words for synonyms",
    )
    parser.add_argument("--tuning-words-by", default="chance", choices=["chance", "gradient"])
    parser.add_argument(
        "--weights",
        default="dense",
        choices=["dense", "dense-freelb", "dense-further"],
        help="which search and magnitude mask; *-drawn and *-further start at it (one --out each)",
    )
    parser.add_argument("--further-lr", type=float, default=3e-5, help="of *-further")
    parser.add_argument(
        "--further-sentences", type=int, default=16_000, help="that *-further are trained on"
    )
    parser.add_argument("--pgd-eps", type=float, nargs="+", default=[0.2])
    parser.add_argument("--pgd-sentences", type=int, default=200)
    parser.add_argument("--text-sentences", type=int, default=100)
    parser.add_argument("--queries", type=int, default=None, help="budget an example")
    parser.add_argument(
        "--on", default="dev", choices=["dev", "held-out"], help="held-out: to choose settings by"
    )
    parser.add_argument(
        "--attacks", nargs="*", default=["text_fooler", "text_bugger", "pwws", "deep_word_bug"]
    )
    parser.add_argument(
        "--amp", action="store_true", help="training and attacks on text in bfloat16 (autocast)"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="print what has been measured")
    parser.add_argument(
        "--paired", nargs=2, metavar="NETWORK", help="compare two on the same sentences (McNemar)"
    )
    options = parser.parse_args()
    keep_freed_memory()
    options.device = choose_device(options.device)
    if not options.table:
        run(options)
    found = measured_rows(options.out, options.on)
    print(table(found))
    if options.paired:
        print(paired(found, *options.paired))


if __name__ == "__main__":
    main()
