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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from attacks.text import content_synonyms
from benchmarks.kept import load_masked, note, rows, save_masked
from robustprune.measure import evaluate, mean_sd
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    FreeLB,
    Natural,
    Objective,
    OnAttacked,
    OptimizerSpec,
    Validation,
    train,
)
from robustprune.models import (
    SentenceTokenizer,
    SynonymSwap,
    TokenSynonyms,
    language_model,
    sentence_classifier,
    token_synonyms,
)
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.checkpoint import forget, load_tensors, save_tensors
from robustprune.run.runtime import choose_device
from robustprune.search import LotteryTicket, find_language_ticket, finetune_ticket, train_control
from robustprune.search.lottery import shuffled
from robustprune.sparsity import (
    MaskSet,
    apply_masks,
    bake,
    full_masks,
    keep_best,
    maskable_layers,
)
from robustprune.sparsity.criteria import weights_of
from robustprune.tasks import BatchLoader, Split, Task, held_out, load_sentences, text_task
from robustprune.view import token_counts, words

KINDS = ("dense", "robust", "magnitude", "random", "reinit")
FREELB = tuple(f"{kind}-freelb" for kind in KINDS)
#: masks on the fine-tuned weights, nothing trained after the draw
DRAWN = ("robust-drawn", "magnitude-drawn", "random-drawn")
#: the same, trained by FreeLB from there for a few gentle steps
FURTHER = ("dense-further", "robust-further", "magnitude-further", "random-further")
MODELS = ("dense", "robust-freelb", "magnitude-freelb", "random-freelb", "reinit-freelb")


@cache
def synonyms() -> TokenSynonyms:
    """What training may put in the place of a word."""
    return token_synonyms(SentenceTokenizer(max_length=64), content_synonyms)


def on_synonyms(
    objective: Objective, share: float, by: Literal["gradient", "chance"] = "chance"
) -> Objective:
    """The objective on sentences with up to that share of their words exchanged for synonyms."""
    if share == 0:
        return objective
    return OnAttacked(SynonymSwap(synonyms(), share, by=by, varied=True), objective)


@dataclass(frozen=True)
class Bench:
    """One seed: what every network of it shares."""

    options: argparse.Namespace
    task: Task
    seed: int

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Where the sentences trained on and the held-out ones stand in the training data."""
        generator = torch.Generator().manual_seed(self.seed)
        train = self.task.train
        chosen = torch.randperm(len(train), generator=generator)
        tokens = token_counts(train.x)[chosen]
        chosen = chosen[tokens >= self.options.least_tokens][: self.options.sentences]
        held = held_out(train.y[chosen], 0.05, self.seed)
        return chosen[~held], chosen[held]

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """Training and held-out sentences; the latter choose epochs, dev never does."""
        train = self.task.train
        kept, held = (replace(train, x=train.x[at], y=train.y[at]) for at in self.places)
        return kept, held

    @property
    def measured(self) -> Split:
        return self.splits[1] if self.options.on == "held-out" else self.task.test

    def texts(self) -> tuple[list[str], list[int]]:
        """The measured sentences as they are written, and their labels."""
        train, dev = load_sentences("sst2", data_dir=self.options.data_dir)
        if self.options.on == "dev":
            return list(dev.first), [int(label) for label in dev.labels]
        held = self.places[1].tolist()
        return [train.first[at] for at in held], [int(train.labels[at]) for at in held]

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel("l2", self.options.eps, support=words)

    @property
    def attack(self) -> PGD:
        return PGD(self.threat, steps=self.options.steps, step_size=self.options.step_size)

    def loader(self, most: int | None = None) -> BatchLoader:
        split = self.splits[0]
        part = Split(split.x[:most], split.y[:most], split.present)
        return BatchLoader(
            part, 32, shuffle=True, seed=self.seed, drop_last=True, lengths=token_counts(part.x)
        )

    def validation(self) -> Validation:
        return Validation(loader=BatchLoader(self.splits[1], 64, shuffle=False, seed=0))

    def pretrained(self) -> nn.Module:
        torch.manual_seed(self.seed)
        model = language_model(self.task.input_shape, self.task.num_classes)
        return model.to(self.options.device)

    def tuning(self, name: str) -> dict:
        lr = self.options.further_lr if name in FURTHER else self.options.lr
        spec = OptimizerSpec(name="adamw", lr=lr, weight_decay=0.01, schedule="linear", warmup=0.1)
        objective: Objective = Natural()
        if name in FREELB + FURTHER:
            wide = replace(self.threat, eps=self.options.tuning_eps)
            objective = on_synonyms(
                FreeLB(PGD(wide, steps=self.options.tuning_steps)),
                self.options.tuning_words,
                self.options.tuning_words_by,
            )
        return {
            "objective": objective,
            "epochs": self.options.epochs,
            "optimizer": spec,
            "validation": self.validation(),
            "amp": self.options.amp,
            "checkpoint": self.checkpoint(name),
            "quiet": True,
            "on_epoch": lambda record: note(self.options.out, {
                "seed": self.seed, "training": name, "epoch": record.epoch + 1,
                "held out": record.val_clean, "seconds": record.seconds,
            }),
        }  # fmt: skip

    def path(self, name: str) -> Path:
        return self.options.out / f"seed{self.seed}" / f"{name}.safetensors"

    def checkpoint(self, name: str) -> Checkpoint:
        """Where a training that is not finished keeps its state."""
        return Checkpoint(self.path(f"state-{name}"))

    def model(self, name: str) -> tuple[nn.Module, MaskSet]:
        """The named network, trained now or fetched."""
        path = self.path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(1000 + self.seed)
            model, masks = self.make(name)
            save_masked(path, model, masks)
            forget(self.checkpoint(name).path)
        state, masks = load_masked(path)
        model = self.pretrained()
        model.load_state_dict(state)
        return model, masks

    def make(self, name: str) -> tuple[nn.Module, MaskSet]:
        kind, _, how = name.partition("-")
        if how == "drawn":
            tuned, _ = self.model(self.options.weights)
            masks = self.masks(kind)
            apply_masks(tuned, masks)
            return bake(tuned), masks
        tuning = self.tuning(name)
        if how == "further":
            whole = kind == "dense"
            tuned, masks = self.model("dense" if whole else self.options.weights)
            if not whole:
                masks = self.masks(kind)
            drawn = LotteryTicket(masks, tuned, [], tuned)
            ticket = finetune_ticket(drawn, self.loader(self.options.further_sentences), **tuning)
            return ticket.model, ticket.masks
        if kind == "dense":
            model = self.pretrained()
            train(model, self.loader(), **tuning)
            return model, full_masks(model)
        if kind == "reinit":
            control = train_control(
                self.ticket("robust"), self.loader(), "reinit", init="xavier_normal", **tuning
            )
            return control.model, control.masks
        ticket = finetune_ticket(self.ticket(kind), self.loader(), **tuning)
        return ticket.model, ticket.masks

    def ticket(self, kind: str) -> LotteryTicket:
        """An untrained ticket with the pre-trained weights."""
        start = self.pretrained()
        return LotteryTicket(self.masks(kind), start, [], start)

    def masks(self, kind: str) -> MaskSet:
        """Drawn now or fetched, on the CPU."""
        path = self.path(f"masks-{kind}")
        if not path.exists():
            save_tensors(path, dict(self.draw(kind).items()))
        return MaskSet(load_tensors(path)[0])

    def draw(self, kind: str) -> MaskSet:
        density = 1 - self.options.sparsity
        tuned, _ = self.model(self.options.weights)
        if kind == "robust":
            started = time.monotonic()
            found = find_language_ticket(
                tuned,
                self.loader(self.options.search_sentences),
                density=density,
                objective=on_synonyms(Adversarial(self.attack), self.options.search_words),
                penalty=self.options.penalty,
                kept=self.options.kept,
                spread=self.options.spread,
                epochs=self.options.search_epochs,
                optimizer=OptimizerSpec(
                    name="adamw", lr=self.options.mask_lr, weight_decay=1e-6, schedule="linear"
                ),
                seed=self.seed,
                amp=self.options.amp,
                checkpoint=self.checkpoint("search"),
                device=self.options.device,
                quiet=True,
            )
            masks, smallest = found.masks, self.masks("magnitude")
            both = sum(int((~mask.cpu() & ~smallest[name]).sum()) for name, mask in masks.items())
            note(self.options.out, {
                "seed": self.seed, "search": True, "seconds": time.monotonic() - started,
                "expected density": found.history[-1].figures["expected density"],
                "robust": found.history[-1].robust, "clean": found.history[-1].clean,
                "pruned by magnitude too": both / (masks.total - masks.kept),
            })  # fmt: skip
            return masks
        elif kind == "magnitude":  # one round of iterative magnitude pruning
            layers = maskable_layers(tuned, dense=("last",))
            scores = {n: weight.detach().abs() for n, weight in weights_of(layers).items()}
            return keep_best(scores, layers, density=density, allocate="global")
        else:
            generator = torch.Generator().manual_seed(self.seed)
            return shuffled(self.masks("robust"), generator)


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


def table(found: Sequence[dict]) -> str:
    """Markdown: one row a network, percent, mean ± sd over seeds where there are several."""
    figures: dict[str, dict[str, list[float]]] = {}
    for row in found:
        for name, value in row["figures"].items():
            if not name.endswith("queries"):
                figures.setdefault(row["model"], {}).setdefault(name, []).append(100 * value)
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    lines = ["| network | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for model, row in figures.items():
        lines.append(f"| {model} | " + " | ".join(cell(row.get(c, [])) for c in columns) + " |")
    return "\n".join(lines)


def paired(found: Sequence[dict], one: str, other: str) -> str:
    """Seed by seed and attack by attack, the sentences that only one of two networks keeps, and the
    exact two-sided McNemar test (that each of these falls to either by the toss of a coin)."""
    stand = {
        (row["model"], row["part"], row["seed"]): set(row["stand"])
        for row in found
        if "stand" in row
    }
    lines = ["| attack | seed | " + f"{one} alone | {other} alone | p |", "| --- " * 5 + "|"]
    for model, part, seed in stand:
        if model != one or (other, part, seed) not in stand:
            continue
        first, second = stand[one, part, seed], stand[other, part, seed]
        more, less = len(first - second), len(second - first)
        p = binomtest(more, more + less).pvalue if more + less else 1.0
        lines.append(f"| {part} | {seed} | {more} | {less} | {p:.2g} |")
    return "\n".join(lines)


def cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    spread = mean_sd(values)
    return f"{spread.mean:.1f} ± {spread.sd:.1f}"


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
    parser.add_argument("--steps", type=int, default=3, help="of the search's PGD")
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
        help="before the search's PGD exchange up to this part of each sentence's words by chance",
    )
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
