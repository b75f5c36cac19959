"""What every stage of a run shares: data, threat, attacks, folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from attacks import FGSM, PGD, Attack, ThreatModel
from robustprune.measure import attack_set
from robustprune.minmax import (
    Adversarial,
    Certified,
    Free,
    FreeLB,
    Gaussian,
    Mart,
    Natural,
    Objective,
    OnAttacked,
    Repeated,
    Trades,
    Validation,
)
from robustprune.models import SynonymSwap, build_model
from robustprune.packing import token_counts
from robustprune.pipeline.selection import record, selective
from robustprune.pipeline.text import synonyms_of
from robustprune.run.config import Config
from robustprune.run.rundir import RunDir
from robustprune.tasks import BatchLoader, Split, Task


@dataclass(frozen=True)
class Run:
    """What every stage of one run shares."""

    config: Config
    task: Task
    training: Split
    held_out: Split | None
    threat: ThreatModel
    device: torch.device
    folder: RunDir
    quiet: bool
    checkpoint_seconds: float = (
        15.0  # between two checkpoints of a training, which wait for its epoch
    )

    def loader(self) -> BatchLoader:
        section = self.config.task
        return BatchLoader(
            self.training,
            section.batch_size,
            shuffle=True,
            seed=self.config.seed,
            augment=self.task.augment if section.augment else None,
            # Batch norm has nothing to normalise in a last batch of one example.
            drop_last=len(self.training) % section.batch_size == 1 < len(self.training),
            device=self.device,
            lengths=token_counts(self.training.x) if section.by_length else None,
        )

    def inner_attack(self) -> FGSM | PGD:
        inner = self.config.inner
        if inner.attack == "pgd":
            return PGD(self.threat, steps=inner.steps, step_size=inner.step_size, mode=inner.mode)
        return FGSM(
            self.threat,
            random_start=inner.attack == "fgsm_rs",
            step_size=inner.step_size,
            mode=inner.mode,
        )

    def robust(self, epochs: int, name: str) -> tuple[Objective, BatchLoader | Repeated]:
        """The outer objective of everything that is trained robustly, and its batches.

        Args:
            epochs: of the training, of which certified objectives take the first half to let ε
                grow, unless inner.warmup says otherwise.
            name: of the model, whose folder keeps what was selected for it.
        """
        objective, loader = self._robust(epochs, name)
        return self.with_synonyms(objective), loader

    def with_synonyms(self, objective: Objective) -> Objective:
        """The objective, on sentences in which words were exchanged first if the config says so."""
        inner = self.config.inner
        if inner.synonyms is None:
            return objective
        swap = SynonymSwap(
            synonyms_of(self.config),
            inner.synonyms,
            by=inner.synonyms_by,
            varied=True,
            mode=inner.mode,
        )
        return OnAttacked(swap, objective)

    def _robust(self, epochs: int, name: str) -> tuple[Objective, BatchLoader | Repeated]:
        section, warmup, loader = self.config.objective, self.config.inner.warmup, self.loader()
        attack = self.inner_attack()
        if section.name == "natural":  # a search on clean examples, such as a plain lottery ticket
            return Natural(), loader
        if section.name in ("trades", "smart", "freelb"):
            assert isinstance(attack, PGD), "`prepare` refuses these without pgd"
            if section.name == "freelb":
                return FreeLB(attack, warmup), loader
            return Trades(attack, section.beta, warmup, section.name == "smart"), loader
        if section.name == "mart":
            return Mart(attack, section.beta, warmup), loader
        if section.name == "gaussian":
            return Gaussian(section.sigma, self.threat.support), loader
        if section.name == "ibp" or section.name == "crown-ibp":
            certified = Certified(
                self.threat,
                method=section.name,
                warmup=warmup or epochs / 2,
                kappa=section.kappa,
            )
            return certified, loader
        if section.name == "free":
            free = Free(self.threat, step_size=self.config.inner.step_size)
            return free, Repeated(loader, section.replays)
        if self.config.selection.method != "none":
            save = partial(record, self.folder, name)
            return selective(self.config, self.threat, loader, attack, self.held_out, save), loader
        return Adversarial(attack, warmup), loader

    def evaluation_attacks(self) -> dict[str, Attack]:
        """The attacks of the table; seeded, so that every model meets the same random starts."""
        section = self.config.evaluation
        return attack_set(
            self.threat,
            steps=section.steps,
            step_size=section.step_size,
            restarts=section.restarts,
            more=section.more,
            seed=self.config.seed,
        )

    def validation(self, *, attacked: bool) -> Validation | None:
        """Choose epochs on held-out training examples, under the attack of training if it is
        `attacked` and has one."""
        if self.held_out is None:
            return None
        batch_size = self.config.evaluation.batch_size
        robust = self.config.objective.name != "natural"
        loader = BatchLoader(self.held_out, batch_size, shuffle=False, seed=0, device=self.device)
        return Validation(
            loader=loader,
            attack=self.inner_attack() if attacked and robust else None,
            patience=self.config.loop.patience,
        )

    def fresh_model(self, *, seeded: bool = False) -> nn.Module:
        """The network with the run's initial weights: the same for every stage.

        Args:
            seeded: leave torch's global generators as the seed and the building leave them, so that
                what a stage draws next depends on the run alone; else they stay as they were.
        """
        model = self.config.model
        if seeded:
            torch.manual_seed(self.config.seed)
            return build_model(model.name, self.task, options=model.options).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            return build_model(model.name, self.task, options=model.options).to(self.device)
