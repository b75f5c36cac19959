"""The networks of `benchmarks.language_tickets`: fine-tuned, then masked by a search or a control,
trained after it or not; each is kept under --out as soon as it is made.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from attacks.text import content_synonyms
from benchmarks.kept import load_masked, note, save_masked
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
    token_synonyms,
)
from robustprune.packing import token_counts, words
from robustprune.run.checkpoint import forget, load_tensors, save_tensors
from robustprune.search import LotteryTicket, find_language_ticket, finetune_ticket, train_control
from robustprune.search.controls import shuffled
from robustprune.sparsity import (
    MaskSet,
    apply_masks,
    bake,
    full_masks,
    keep_best,
    maskable_layers,
)
from robustprune.sparsity.criteria import weights_of
from robustprune.tasks import BatchLoader, Split, Task, held_out, load_sentences

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
                objective=on_synonyms(
                    Adversarial(self.attack) if self.options.steps else Natural(),
                    self.options.search_words,
                    self.options.search_words_by,
                ),
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
