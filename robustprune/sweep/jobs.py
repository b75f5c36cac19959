"""The runs of a sweep as commands that any scheduler can start."""

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
    """One run to be started.

    Attributes:
        point: what distinguishes it.
        run: its run directory.
        config: the file with its whole config, which `write_config` makes.
        log: where its output goes.
        options: further arguments of `robustprune run`.
    """

    point: Point
    run: Path
    config: Path
    log: Path
    options: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The same command line, to the letter, as a user would give."""
        return [sys.executable, "-m", "robustprune", "run", str(self.config), *self.options]

    @property
    def finished(self) -> bool:
        """Whether its last stage, the report, is there."""
        return (self.run / "report.html").exists()

    def write_config(self) -> None:
        """Write the file that its command names, unless it is there."""
        text = self.point.config.to_yaml()
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:
            self.config.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, text)


def jobs_of(
    points: Sequence[Point], folder: Path, *, out: Path, options: Sequence[str] = ()
) -> list[Job]:
    """How to start each run; nothing is written yet.

    Args:
        folder: of the sweep, where configs and logs will be.
        out: where run directories are kept.
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
    """This process's environment with so many threads for torch and what lies beneath it."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def start(job: Job, *, threads: int, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start a job; its output, all of it, goes to its log."""
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
    """Run a job to its end: what a scheduler calls on its node. Returns the exit status."""
    return start(job, threads=threads).wait()
