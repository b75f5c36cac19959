"""Summarise the state of the runs of a sweep, from the files that they wrote."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robustprune.run.atomic import write_atomically
from robustprune.run.constant import constant_networks
from robustprune.run.files import not_special
from robustprune.sweep.jobs import Job

Status = Literal["finished", "failed", "begun", "waiting"]
#: number of bytes at the end of a log in which the reason of a failure is searched
_TAIL = 8192


@dataclass(frozen=True)
class RunStatus:
    """The state of one run of a sweep.

    Attributes:
        values: the values of the grid's fields.
        run: its run directory.
        status: "finished"; "failed", with a reason; "begun", if there is a log or a directory and
            it is neither finished nor failed; or "waiting".
        reason: the reason of a failure in one line, or None.
        log: the file of its output.
        figures: for a finished run the figures of the headline model: density, clean and worst-case
            accuracy, and whether its answer is constant; or, of a causal language model, density,
            perplexity and that of the dense network; otherwise None.
        stamp: the time at which its report was written, in nanoseconds. While it is the same, the
            figures need not be read again.
    """

    values: Mapping[str, Any]
    run: str
    status: Status
    reason: str | None
    log: str
    figures: Mapping[str, float | bool] | None
    stamp: int | None = None


def status_of(job: Job, exit_status: int | None = None) -> RunStatus:
    """Return the state of a run. `exit_status` is that of its process, or None if it is not
    known."""
    return _status(job, exit_status, _Present(), {})


def statuses_of(
    jobs: Sequence[Job], summary: Path, exits: Mapping[Job, int] | None = None
) -> list[RunStatus]:
    """Return the states of all runs, with one listing of each folder. What the file `summary` of
    an earlier call contains about runs that did not change is not read again.

    exits: the exit statuses of the processes, as far as they are known.
    """
    present, known = _Present(), _known(summary)
    return [_status(job, (exits or {}).get(job), present, known) for job in jobs]


class _Present:
    """The content of folders, each of which is listed only once, because there may be ten thousand
    runs on a file system where every request takes a millisecond."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
        return path.name in self._names[folder]


def _status(
    job: Job, exit_status: int | None, present: _Present, known: Mapping[str, Mapping[str, Any]]
) -> RunStatus:
    # the folder of all seeds first: if it does not exist, it need not be listed
    run = job.run.parent in present and job.run in present
    log, stamp = job.log in present, _written(job.run / "report.html") if run else None
    reason, figures = None, None
    status: Status = "begun" if log or run else "waiting"
    if stamp is not None:
        status = "finished"
        earlier = known.get(str(job.run), {})
        try:
            same = earlier.get("stamp") == stamp
            figures = earlier["figures"] if same else _figures(job.run / "metrics.json")
        except ValueError as error:
            status, reason = "failed", str(error)
    elif exit_status:
        status, reason = "failed", _last_error(job.log) or _exit(exit_status)
    elif log and (said := _last_error(job.log)):
        status, reason = "failed", said
    return RunStatus(job.point.values, str(job.run), status, reason, str(job.log), figures, stamp)


def write_summary(path: Path, name: str, runs: Sequence[RunStatus]) -> dict[str, Any]:
    """Write summary.json and return its content."""
    states = ("finished", "failed", "begun", "waiting")
    content = {
        "sweep": name,
        "counts": {state: sum(run.status == state for run in runs) for state in states},
        "runs": [dict(vars(run)) for run in runs],
    }
    # one line for each run, which people can read and which is faster than an indented file
    parts = [f"{json.dumps(key)}: {json.dumps(content[key])}" for key in ("sweep", "counts")]
    lines = ",\n".join(map(json.dumps, content["runs"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f'{{{", ".join(parts)}, "runs": [\n{lines}\n]}}\n')
    return content


def _written(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def _known(summary: Path) -> dict[str, Mapping[str, Any]]:
    """Return the finished runs of an earlier summary by directory, or {} if it can't be read."""
    try:
        runs = json.loads(not_special(summary).read_text(encoding="utf-8"))["runs"]
        return {run["run"]: run for run in runs if run["figures"] and "stamp" in run}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _figures(path: Path) -> dict[str, float | bool]:
    """Return the figures of the headline model.

    Raises:
        ValueError: the file is not as a run writes it.
    """
    try:
        metrics = json.loads(not_special(path).read_text(encoding="utf-8"))
        if isinstance(metrics, dict) and metrics.get("kind") == "causal":
            return _perplexities(metrics)
        checks = ((str(found["name"]), bool(found["ok"])) for found in metrics["findings"])
        (headline,) = (m for m in metrics["models"] if m["name"] == metrics["headline"])
        return {
            "density": headline["density"],
            "clean": headline["clean"]["value"],
            "worst": headline["robust"]["worst"]["value"],
            "constant": metrics["headline"] in constant_networks(checks),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not as a finished run leaves it ({type(error).__name__}: {error}); remove "
            "the run directory and give the command again"
        ) from error


def _perplexities(metrics: Mapping[str, Any]) -> dict[str, float | bool]:
    """Return the figures of a causal language model; what is infinite is left out."""
    (headline,) = (one for one in metrics["networks"] if one["name"] == metrics["headline"])
    seen = {"perplexity": headline["perplexity"], "dense": metrics["networks"][0]["perplexity"]}
    values = {name: one["value"] for name, one in seen.items()}
    return {"density": headline["density"], **{k: v for k, v in values.items() if v is not None}}


def _last_error(log: Path) -> str | None:
    """Return the line in which a run, or Python, said why it failed; None if there is none."""
    if not log.exists():
        return None
    with open(not_special(log), "rb") as file:
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
    named = {number.value: number.name for number in signal.Signals}
    name = named.get(-status, f"signal {-status}")  # those of real time have no names
    hint = "; out of memory?" if name == "SIGKILL" else ""
    return f"stopped by {name}{hint}"
