"""Where a training stands: kept between epochs, so that a killed run goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robustprune.run.checkpoint import (
    flatten_optimizer,
    load_latest,
    restore_optimizer,
    save_tensors,
)
from robustprune.run.runtime import generator_states, restore_generators


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
    """Where a training keeps its state, and how often: after an epoch, once `seconds` have passed
    since the last time."""

    path: Path
    seconds: float = 15.0


@dataclass
class Progress:
    """Everything a resumed training needs besides model, optimizer, loader and generators."""

    epoch: int = 0
    step: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    history: list[EpochRecord] = field(default_factory=list)


def save(
    path: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Mapping[str, object],
) -> None:
    """Write the state after an epoch; the one before is kept beside it.

    Args:
        parts: by name, what else has a `state_dict`; one without is passed over.
    """
    sections: dict[str, dict[str, Tensor]] = {
        "model": dict(model.state_dict()),
        "optimizer": flatten_optimizer(optimizer),
        "best": progress.best or {},
        "generator": generator_states(),
        **{name: state_of(part) for name, part in parts.items()},
    }
    meta = {
        "epoch": progress.epoch,
        "step": progress.step,
        "best_score": progress.best_score if progress.best else None,
        "best_epoch": progress.best_epoch,
        "history": [asdict(record) for record in progress.history],
    }
    save_tensors(path, flatten(sections), meta, keep_previous=True)


def resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, parts: Mapping[str, object]
) -> Progress:
    """Put back what `save` wrote last, into model, optimizer, parts and torch's generators; where
    nothing was written, they stay as they are and the training is at its beginning.

    Raises:
        ValueError: the file and the one before are damaged, or of another model.
    """
    found = load_latest(path)
    if found is None:
        return Progress()
    tensors, meta = found
    sections = unflatten(tensors)
    try:
        model.load_state_dict(sections["model"])
        restore_optimizer(optimizer, sections.get("optimizer", {}))
        for name, part in parts.items():
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(sections.get(name, {}))
        progress = Progress(
            epoch=meta["epoch"],
            step=meta["step"],
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
