"""Save the state of a training on its way, so that a killed run continues bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robustprune.minmax.finite import first_weight
from robustprune.minmax.history import EpochRecord, History
from robustprune.run.checkpoint import (
    flatten_optimizer,
    load_latest,
    restore_optimizer,
    save_tensors,
)
from robustprune.run.fingerprint import Call, check_same_call
from robustprune.run.runtime import generator_states, is_first, ranks, restore_generators

#: the largest share of the time of an epoch for saving state within it
SHARE = 0.05


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a training saves its state.

    It is saved after an epoch, and within one if the loader can continue there, once `seconds` have
    passed since the last time. Within epochs saving takes at most a twentieth of the time, so a
    large state is saved less often. Several ranks save only after epochs, because each has its own
    random numbers. The file contains a fingerprint of its call: the options of the search and of
    the training, and the weights and examples at the start (see `run.fingerprint`). Another call
    refuses the file.

    Attributes:
        path: the file.
        seconds: the least time between two savings.
        origin: a name that replaces the digests of weights and examples in the fingerprint. A run
            sets it, so that another processor, whose last bits differ, can continue.
        call: the options of the search, by name; searches fill it in.
    """

    path: Path
    seconds: float = 15.0
    origin: str | None = None
    call: Call | None = field(default=None, repr=False)


@dataclass
class Progress:
    """What a resumed training needs besides model, optimizer, loader and generators."""

    epoch: int = 0
    step: int = 0
    batch: int = 0  # number of batches done in the present epoch
    seconds: float = 0.0  # time that they took
    best_score: float = -math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    history: History = field(default_factory=History)


class Keeper:
    """Save the state of one training in a file, and restore it.

    Args:
        parts: other objects with a `state_dict`, by name; an object without one is skipped.
        call: the fingerprint of the training.
        longer: whether the checkpoint of a training with fewer epochs may be continued.
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
        """Save after an epoch if enough time has passed."""
        if is_first() and self._elapsed() >= self.checkpoint.seconds:
            self._save(progress)

    def within_epoch(self, progress: Progress) -> None:
        """Save within an epoch if enough time has passed and all weights are finite. (A finite
        loss does not show that, because the weights changed after it was computed.)"""
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
        """Restore the last saved state of model, optimizer, parts and torch's generators. If there
        is none, nothing changes and the training is at its beginning.

        Raises:
            ValueError: the file and the one before it are damaged, or belong to another call.
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
                history=History(EpochRecord(**record) for record in meta["history"]),
            )
            restore_generators(sections["generator"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{path} does not fit this run ({error}); delete it to start over"
            ) from error
        return progress

    def _of_this_length(self, there: Call | None) -> Call | None:
        """Return the file's fingerprint, with this call's epochs if they change nothing before."""
        if there is None or not self.longer or not there.get("epochs", "").isdigit():
            return there
        return {**there, "epochs": max(there["epochs"], self.call["epochs"], key=int)}


def state_of(part: object) -> dict[str, Tensor]:
    """Return the state of a part, or {} if it has no `state_dict`."""
    return dict(part.state_dict()) if hasattr(part, "state_dict") else {}


def flatten(sections: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join named groups of tensors into one mapping with keys "section/name"."""
    return {f"{section}/{k}": v for section, part in sections.items() for k, v in part.items()}


def unflatten(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split the result of `flatten` into the named groups again."""
    sections: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        section, _, key = name.partition("/")
        sections.setdefault(section, {})[key] = tensor
    return sections
