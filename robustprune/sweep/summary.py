"""How the runs of a sweep stand, read from what they left."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from robustprune.run.checkpoint import write_atomically
from robustprune.sweep.jobs import Job

Status = Literal["finished", "failed", "begun", "waiting"]
#: bytes at the end of a log that are searched for the reason
_TAIL = 8192


@dataclass(frozen=True)
class RunStatus:
    """One run of a sweep.

    Attributes:
        values: of the grid's fields.
        run: its directory.
        status: "finished"; "failed", with the reason; "begun" where a log or a directory is there
            without either; "waiting".
        reason: of a failure, one line.
        log: of its output.
        figures: clean and worst-case accuracy of the headline, of a finished run.
    """

    values: Mapping[str, Any]
    run: str
    status: Status
    reason: str | None
    log: str
    figures: Mapping[str, float] | None


def status_of(job: Job, exit_status: int | None = None) -> RunStatus:
    """How a run stands; `exit_status` is that of its process, where it is known."""
    reason, figures = None, None
    status: Status = "begun" if job.log.exists() or job.run.exists() else "waiting"
    if job.finished:
        status, figures = "finished", _figures(job.run / "metrics.json")
    elif exit_status:
        status, reason = "failed", _last_error(job.log) or _exit(exit_status)
    elif error := _last_error(job.log):
        status, reason = "failed", error
    return RunStatus(job.point.values, str(job.run), status, reason, str(job.log), figures)


def write_summary(path: Path, name: str, runs: Sequence[RunStatus]) -> dict[str, Any]:
    """Write summary.json and return its content."""
    states = ("finished", "failed", "begun", "waiting")
    content = {
        "sweep": name,
        "counts": {state: sum(run.status == state for run in runs) for state in states},
        "runs": [asdict(run) for run in runs],
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    return content


def _figures(path: Path) -> dict[str, float]:
    metrics = json.loads(path.read_text(encoding="utf-8"))
    (headline,) = (m for m in metrics["models"] if m["name"] == metrics["headline"])
    return {
        "density": headline["density"],
        "clean": headline["clean"]["value"],
        "worst": headline["robust"]["worst"]["value"],
    }


def _last_error(log: Path) -> str | None:
    """The line with which a run said why it failed, or with which Python did."""
    if not log.exists():
        return None
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().decode("utf-8", errors="replace").replace("\r", "\n").splitlines()
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    crashed = any(line.startswith("Traceback (most recent call last)") for line in lines)
    return next((line for line in reversed(lines) if line.strip()), None) if crashed else None


def _exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    hint = "; out of memory?" if name == "SIGKILL" else ""
    return f"stopped by {name}{hint}"
