"""Where a training stands: kept along the way, so that a killed run goes on bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robustprune.minmax.finite import first_weight
from robustprune.run.checkpoint import (
    flatten_optimizer,
    load_latest,
    restore_optimizer,
    save_tensors,
)
from robustprune.run.fingerprint import Call, check_same_call
from robustprune.run.runtime import generator_states, is_first, ranks, restore_generators

#: of the time of an epoch, what may go into keeping state within it
SHARE = 0.05


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training's history; accuracies are of batches, as trained on."""

    epoch: int
    step: int
    loss: float
    clean: float | None
    robust: float | None
    lr: float
    seconds: float
    val_clean: float | None = None
    val_robust: float | None = None
    figures: dict[str, float] = field(default_factory=dict)  # of the constraint, by name


@dataclass(frozen=True)
class Checkpoint:
    """Where a training keeps its state, and how often: once `seconds` have passed since the last
    time, after an epoch, and within one where the loader can go on from there.

    Within epochs it takes no more than a twentieth of the time: what is large is kept less often.
    Of several ranks each has random numbers of its own there, so they keep it after epochs only.

    The file says of which call it is, and no other call takes it up: the options of the search and
    of the training, weights and examples at the start (see `run.fingerprint`).

    Attributes:
        origin: a name that stands for weights and examples in place of their digests. A run gives
            its own, so that another processor, whose last bits differ, can go on with it.
        call: what the search was asked for, by option; searches fill it in.
    """

    path: Path
    seconds: float = 15.0
    origin: str | None = None
    call: Call | None = field(default=None, repr=False)


@dataclass
class Progress:
    """Everything a resumed training needs besides model, optimizer, loader and generators."""

    epoch: int = 0
    step: int = 0
    batch: int = 0  # of the epoch under way, as many are done
    seconds: float = 0.0  # and so long it took
    best_score: float = -math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    history: list[EpochRecord] = field(default_factory=list)


class Keeper:
    """Keeps the state of one training in a file, and puts it back.

    Args:
        parts: by name, what else has a `state_dict`; one without is passed over.
        call: the training's fingerprint.
        longer: whether a training of fewer epochs is the beginning of this one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parts: Mapping[str, object],
        call: Call,
        *,
        longer: bool = False,
    ) -> None:
        self.call, self.longer = call, longer
        self.checkpoint, self.model, self.optimizer = checkpoint, model, optimizer
        self.parts = parts
        self.saved_at, self.cost = time.monotonic(), 0.0

    def after_epoch(self, progress: Progress) -> None:
        """Save, where it is time to."""
        if is_first() and self._elapsed() >= self.checkpoint.seconds:
            self._save(progress)

    def within_epoch(self, progress: Progress) -> None:
        """Save after a step that is not its epoch's last, where it is time to and the state is
        one to go on from: a loss says nothing of the weights that its step led to."""
        if ranks() > 1 or self._elapsed() < max(self.checkpoint.seconds, self.cost / SHARE):
            return
        if state_of(self.parts["loader"]) and first_weight(self.model) is None:
            self._save(progress)

    def _elapsed(self) -> float:
        return time.monotonic() - self.saved_at

    def _save(self, progress: Progress) -> None:
        started = time.monotonic()
        sections: dict[str, dict[str, Tensor]] = {
            "model": dict(self.model.state_dict()),
            "optimizer": flatten_optimizer(self.optimizer),
            "best": progress.best or {},
            "generator": generator_states(),
            **{name: state_of(part) for name, part in self.parts.items()},
        }
        meta = {
            "epoch": progress.epoch,
            "step": progress.step,
            "batch": progress.batch,
            "seconds": progress.seconds,
            "best_score": progress.best_score if progress.best else None,
            "best_epoch": progress.best_epoch,
            "history": [asdict(record) for record in progress.history],
            "call": dict(self.call),
        }
        save_tensors(self.checkpoint.path, flatten(sections), meta, keep_previous=True)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - started

    def resume(self) -> Progress:
        """Put back what was saved last, into model, optimizer, parts and torch's generators; where
        nothing was, they stay as they are and the training is at its beginning.

        Raises:
            ValueError: the file and the one before are damaged, or of another call.
        """
        path = self.checkpoint.path
        found = load_latest(path)
        if found is None:
            return Progress()
        tensors, meta = found
        check_same_call(path, self._of_this_length(meta.get("call")), self.call)
        sections = unflatten(tensors)
        try:
            self.model.load_state_dict(sections["model"])
            restore_optimizer(self.optimizer, sections.get("optimizer", {}))
            for name, part in self.parts.items():
                if hasattr(part, "load_state_dict"):
                    part.load_state_dict(sections.get(name, {}))
            progress = Progress(
                epoch=meta["epoch"],
                step=meta["step"],
                batch=meta["batch"],
                seconds=meta["seconds"],
                best_score=-math.inf if meta["best_score"] is None else meta["best_score"],
                best_epoch=meta["best_epoch"],
                best=sections.get("best"),
                history=[EpochRecord(**record) for record in meta["history"]],
            )
            restore_generators(sections["generator"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{path} does not fit this run ({error}); delete it to start over"
            ) from error
        return progress

    def _of_this_length(self, there: Call | None) -> Call | None:
        """The file's fingerprint, with this call's epochs if that changes nothing before them."""
        if there is None or not self.longer or not there.get("epochs", "").isdigit():
            return there
        return {**there, "epochs": max(there["epochs"], self.call["epochs"], key=int)}


def state_of(part: object) -> dict[str, Tensor]:
    """What a part wants kept; nothing for one that has no `state_dict`."""
    return dict(part.state_dict()) if hasattr(part, "state_dict") else {}


def flatten(sections: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Named groups of tensors as one, "section/name"."""
    return {f"{section}/{k}": v for section, part in sections.items() for k, v in part.items()}


def unflatten(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What `flatten` was given."""
    sections: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        section, _, key = name.partition("/")
        sections.setdefault(section, {})[key] = tensor
    return sections
