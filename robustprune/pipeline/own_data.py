"""The examples on which the user's own network is measured, and its adversary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attacks import ThreatModel
from robustprune.pipeline.prepare import task_of
from robustprune.run.config import Config
from robustprune.run.settings import TaskSection
from robustprune.tasks import own_examples, read_own


@dataclass(frozen=True, eq=False)
class Problem:
    """Examples, and what an adversary may do to them.

    Attributes:
        x: (N, ...) and y: (N,), N at least 1, on the network's device.
        source: a text that says where the examples are from; the manifest contains it.
    """

    x: Tensor
    y: Tensor
    threat: ThreatModel
    source: str


def config_problem(
    config: Config,
    *,
    norm: str | None,
    eps: float | None,
    examples: int | None,
    data_dir: Path | None,
    device: torch.device | str,
) -> Problem:
    """Return the first test examples of a config's task, with its threat model where `norm` or
    `eps` is None.

    Raises:
        ValueError, OSError: as in `tasks.load_task`.
    """
    task = task_of(config, data_dir)
    x, y = task.test.batch(slice(examples))
    eps = config.threat.eps if eps is None else eps
    threat = ThreatModel(norm or config.threat.norm, eps, task.bounds, task.support)
    return Problem(x.to(device), y.to(device), threat, task.name)


def own_problem(
    section: TaskSection,
    *,
    norm: str | None,
    eps: float,
    examples: int | None,
    device: torch.device | str,
) -> Problem:
    """Return the first examples of the user's own data; see `tasks.own_examples`.

    Args:
        section: the task, whose path is given.
        norm: None for "linf".

    Raises:
        ValueError, OSError: as in `tasks.read_own` and `tasks.own_examples`.
    """
    assert section.path is not None, "the command line gives it"
    data = read_own(
        section.name,
        section.path,
        bounds=section.bounds,
        length=section.length,
        missing=section.missing,
        label=section.label,
        header=section.header,
        layout=section.layout,
        size=section.size,
    )
    x, y = own_examples(data, share=section.test)
    threat = ThreatModel(norm or "linf", eps, data.bounds)
    return Problem(x[:examples].to(device), y[:examples].to(device), threat, section.path.name)
