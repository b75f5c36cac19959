"""A run's own data that lie elsewhere now: in another folder, or on another machine."""

from __future__ import annotations

from pathlib import Path

from robustprune.pipeline.networks import data_digest
from robustprune.run.config import Config
from robustprune.run.rundir import RunDir
from robustprune.run.terminal import shown
from robustprune.tasks import Task


def with_data(config: Config, data: Path | None) -> Config:
    """Return a run's config whose data are read from `data`, everything else as it is.

    Args:
        data: a file or folder as the run had it; None for the place that the config names.

    Raises:
        ValueError: the run has no data of its own.
        FileNotFoundError: there is nothing at that place.
    """
    path = config.task.path
    if data is None:
        if path is not None and not path.expanduser().exists():
            raise FileNotFoundError(
                f"the run's data {shown(path)} are not there, seen from the current folder; "
                "say where they are now with --data PATH"
            )
        return config
    if path is None:
        raise ValueError(
            f"--data is for a run on your own data, and this one read {config.task.name}; leave it "
            "out, or give the folder of data sets with --data-dir"
        )
    if not data.exists():
        raise FileNotFoundError(f"there is no file or folder {data}")
    task = config.task.model_copy(update={"path": data})
    return config.model_copy(update={"task": task})


def check_same_data(config: Config, task: Task, folder: RunDir) -> None:
    """Check that the data are those with which the run was begun, example by example.

    Raises:
        ValueError: they differ.
    """
    if config.task.path is None or not (folder.path / "origin.json").exists():
        return
    stated = folder.read_json("origin.json")
    begun = stated.get("data") if isinstance(stated, dict) else None
    found = data_digest(task)
    if begun is not None and begun != found:
        raise ValueError(
            f"{shown(config.task.path)} does not hold the data of this run: their digest is "
            f"{found}, and the run began with {shown(begun, 40)}"
        )
