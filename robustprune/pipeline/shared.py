"""What all stages of a run share: data, threat model, attacks and folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from attacks import FGSM, PGD, Attack, ThreatModel
from robustprune.measure import attack_set
from robustprune.minmax import (
    Adversarial,
    Ard,
    Awp,
    Certified,
    Free,
    FreeLB,
    Gaussian,
    Iad,
    Mart,
    Natural,
    Objective,
    OnAttacked,
    Repeated,
    Rslad,
    Trades,
    Validation,
)
from robustprune.models import SynonymSwap
from robustprune.packing import token_counts
from robustprune.pipeline.networks import build_network
from robustprune.pipeline.selection import record, selective
from robustprune.pipeline.text import synonyms_of
from robustprune.run.config import Config
from robustprune.run.rundir import RunDir
from robustprune.run.settings import DISTILLED
from robustprune.tasks import BatchLoader, Split, Task

#: the objectives that climb by themselves, or climb another loss than the cross-entropy
NEED_PGD = ("trades", "smart", "freelb", "rslad")


@dataclass(frozen=True)
class Run:
    """What all stages of one run share.

    Attributes:
        teacher: the network that teaches where the objective is a distillation: the dense one, once
            it is trained.
        data_dir: the folder of the data sets that the run was given.
    """

    config: Config
    task: Task
    training: Split
    held_out: Split | None
    threat: ThreatModel
    device: torch.device
    folder: RunDir
    quiet: bool
    checkpoint_seconds: float = 15.0  # seconds between two checkpoints of a training
    teacher: nn.Module | None = None
    data_dir: Path | None = None

    def loader(self) -> BatchLoader:
        section = self.config.task
        return BatchLoader(
            self.training,
            section.batch_size,
            shuffle=True,
            seed=self.config.seed,
            augment=self.task.augment if section.augment else None,
            # Batch norm can't normalise a last batch of one example.
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

    def robust(
        self, epochs: int, name: str, *, dense: bool = False
    ) -> tuple[Objective, BatchLoader | Repeated]:
        """Return the objective of every robust training, and its batches.

        Args:
            epochs: the number of epochs of the training. Certified objectives let ε grow in the
                first half, unless inner.warmup says otherwise.
            name: the name of the model; its folder records the examples that were selected for it.
            dense: whether the dense network is trained. It has no teacher, and so it is trained
                adversarially where the objective is a distillation.

        Raises:
            ValueError: the objective is a distillation, and there is no teacher.
        """
        objective, loader = self._robust(epochs, name, dense)
        objective, gamma = self.with_synonyms(objective), self.config.objective.awp
        return Awp(objective, gamma) if gamma > 0 else objective, loader

    def with_synonyms(self, objective: Objective) -> Objective:
        """Return the objective, on sentences with replaced words if the config asks for
        synonyms."""
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

    def _robust(
        self, epochs: int, name: str, dense: bool
    ) -> tuple[Objective, BatchLoader | Repeated]:
        section, warmup, loader = self.config.objective, self.config.inner.warmup, self.loader()
        attack = self.inner_attack()
        if section.name == "natural":  # for searches on clean examples
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
        if section.name in DISTILLED and not dense:
            return self._taught(attack, warmup), loader
        if section.name == "free":
            free = Free(self.threat, step_size=self.config.inner.step_size)
            return free, Repeated(loader, section.replays)
        if self.config.selection.method != "none":
            save = partial(record, self.folder, name)
            return selective(self.config, self.threat, loader, attack, self.held_out, save), loader
        return Adversarial(attack, warmup), loader

    def _taught(self, attack: FGSM | PGD, warmup: float) -> Objective:
        section = self.config.objective
        if self.teacher is None:
            raise ValueError(
                f"objective {section.name} needs a teacher, and this run has no dense network that "
                "was trained before; take objective adversarial"
            )
        if section.name == "rslad":
            assert isinstance(attack, PGD), "`prepare` refuses it without pgd"
            return Rslad(self.teacher, attack, section.clean, warmup)
        if section.name == "ard":
            return Ard(self.teacher, attack, section.alpha, section.temperature or 30.0, warmup)
        return Iad(self.teacher, attack, section.alpha, section.temperature or 1.0, warmup=warmup)

    def evaluation_attacks(self) -> dict[str, Attack]:
        """Return the attacks of the table, with seeds, so that models get the same random
        starts."""
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
        """Return how epochs are chosen on held-out training examples: under the attack of training
        if `attacked` and there is one."""
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
        """Return the network with the run's initial weights, which are the same for every stage.

        Args:
            seeded: whether torch's global generators are left as the seed and the building leave
                them, so that later random numbers of the stage depend only on the run; otherwise
                they do not change.
        """
        if seeded:
            torch.manual_seed(self.config.seed)
            return build_network(self.config.model, self.task).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            return build_network(self.config.model, self.task).to(self.device)
