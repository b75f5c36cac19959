"""Turn the runs of a sweep into commands that any scheduler can start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustprune.run.atomic import write_atomically
from robustprune.sweep.grid import Point


@dataclass(frozen=True, eq=False)
class Job:
    """One run that is to be started.

    Attributes:
        point: the field values and the config of the run.
        run: its run directory.
        config: the path of the file with its whole config, which `write_config` writes.
        log: the path of the file for its output.
        options: further arguments of `robustprune run`.
    """

    point: Point
    run: Path
    config: Path
    log: Path
    options: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The command line, which a user could also type."""
        name = self.point.config.model.name
        # the code of a function is imported only if the command line names it
        own = ("--model", name) if ":" in name else ()
        return [sys.executable, "-m", "robustprune", "run", str(self.config), *own, *self.options]

    @property
    def finished(self) -> bool:
        """Return whether the report exists, which is the last stage of the run."""
        return (self.run / "report.html").exists()

    def write_config(self) -> None:
        """Write the config file of the command, unless it exists with this content."""
        text = self.point.config.to_yaml()
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:
            self.config.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, text)


def jobs_of(
    points: Sequence[Point], folder: Path, *, out: Path, options: Sequence[str] = ()
) -> list[Job]:
    """Return a job for each run. Nothing is written yet.

    Args:
        folder: the folder of the sweep, for configs and logs.
        out: the folder of the run directories.
        options: further arguments of `robustprune run`, such as ("--device", "cpu").
    """
    return [
        Job(
            point=point,
            run=point.config.folder(out),
            config=folder / f"{number:03}.yaml",
            log=folder / f"{number:03}.log",
            options=("--out", str(out), *options),
        )
        for number, point in enumerate(points)
    ]


def environment(threads: int) -> dict[str, str]:
    """Return this process's environment with this number of threads for torch and its libraries."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def start(job: Job, *, threads: int, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start a job. All of its output goes to its log."""
    job.write_config()
    with open(job.log, "wb") as log:
        return subprocess.Popen(
            [*job.command, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(threads),
        )


def run_job(job: Job, threads: int) -> int:
    """Run a job to its end and return the exit status. A scheduler calls it on its node."""
    return start(job, threads=threads).wait()
