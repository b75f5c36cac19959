"""`robustprune sweep` runs a grid of configs, on this machine or as a SLURM array."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.cli.shared import Parser, add_command, answer, path_argument, silent
from robustprune.run.config import read_yaml
from robustprune.run.constant import NOTE
from robustprune.run.naming import check_code_is_named
from robustprune.run.terminal import printable

if TYPE_CHECKING:
    from robustprune.sweep import Job, RunStatus


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "sweep",
        "a grid of runs: methods, densities, seeds, attacks, any field",
        about="Run every combination of a grid, each in its own run directory. Finished runs are "
        "skipped,\nso the same command continues with the rest. A run that fails is listed with "
        "its reason\nand does not stop the others.",
        examples=(
            ("configs/sweeps/methods_ecg200.yaml --jobs 2", "two at a time on this machine"),
            (
                "configs/sweeps/methods_ecg200.yaml --status",
                "the state of the runs; starts nothing",
            ),
            (
                "configs/sweeps/methods_ecg200.yaml --slurm timeout_min=600 slurm_partition=gpu",
                "as a SLURM array",
            ),
        ),
        run=_sweep,
        closing="Exit status: 0 all finished (or submitted), 1 some failed, 2 bad input, 130 "
        "interrupted.",
    )
    path_argument(parser, "sweep", type=Path, metavar="FILE", help="YAML: name, config, set, grid")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="number of runs at a time (default: 1)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each run (default: an equal share of the CPUs)",
    )
    parser.add_argument(
        "--devices",
        nargs="+",
        default=[],
        metavar="D",
        help="devices that runs use in turn, such as cuda:0 cuda:1",
    )
    parser.add_argument(
        "--status", action="store_true", help="show the state of the runs; start nothing"
    )
    parser.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help="submit one array through submitit with these parameters, and do not wait for it",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your own functions that the grid or its config names as networks; their modules are "
        "imported",
    )
    path_argument(parser, "--data-dir", folder=True, type=Path, help="as for `run`")
    path_argument(
        parser,
        "--out",
        folder=True,
        type=Path,
        default=Path("runs"),
        help="folder of the runs; the sweep's files are in OUT/sweeps (default: %(default)s)",
    )


def _sweep(options: argparse.Namespace) -> int:
    from robustprune.sweep import jobs_of, load_sweep, points_of, statuses_of, submit, write_summary

    sweep = load_sweep(options.sweep)
    points = points_of(sweep)
    folder = options.out / "sweeps" / sweep.name
    settings = _settings(options.slurm or [])
    for point in points:
        check_code_is_named(point.config.model.name, options.model)
    run_options = ("--data-dir", str(options.data_dir)) if options.data_dir else ()
    jobs = jobs_of(points, folder, out=options.out, options=run_options)
    threads = options.threads or max(1, (os.cpu_count() or 1) // max(1, options.jobs))
    statuses: dict[Job, int] = {}
    submitted: list[str] = []
    summary = folder / "summary.json"
    try:
        if not options.status:
            todo = [job for job in jobs if not job.finished]
            if options.slurm is None:
                statuses = _run_here(todo, options, threads, of=len(jobs))
            elif todo:
                submitted = submit(
                    todo, folder, at_once=options.jobs, threads=threads, settings=settings
                )
    finally:
        runs = statuses_of(jobs, summary, statuses)
        content = write_summary(summary, sweep.name, runs)
    content = {**content, "summary": str(summary), "submitted": submitted}
    answer(options, content, lambda: _show(content, runs))
    return 1 if content["counts"]["failed"] else 0


def _run_here(
    todo: list[Job], options: argparse.Namespace, threads: int, *, of: int
) -> dict[Job, int]:
    from robustprune.sweep import run_local, status_of

    def say(text: str) -> None:
        if not silent(options):
            print(printable(text), file=sys.stderr, flush=True)

    def ended(job: Job, status: int) -> None:
        how = status_of(job, status)
        say(f"{how.status}: {job.point.label}" + (f": {how.reason}" if how.reason else ""))

    say(f"{of - len(todo)} of {of} runs are finished; {len(todo)} to do")
    return run_local(
        todo,
        at_once=options.jobs,
        threads=threads,
        devices=options.devices,
        on_start=lambda job: say(f"started: {job.point.label}"),
        on_end=ended,
    )


def _settings(texts: list[str]) -> dict[str, Any]:
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"--slurm {text!r} is not of the form key=value")
        settings[key] = read_yaml(value)
    return settings


def _show(content: dict[str, Any], runs: list[RunStatus]) -> None:
    for run in runs:
        values = ", ".join(f"{field}={value}" for field, value in run.values.items())
        what = run.reason or ""
        if run.figures and "clean" in run.figures:
            what = f"clean {run.figures['clean']:.1%}, worst case {run.figures['worst']:.1%}"
            what += f" ({NOTE})" if run.figures["constant"] else ""
        elif run.figures:
            known = [name for name in ("perplexity", "dense") if name in run.figures]
            what = ", ".join(f"{name} {run.figures[name]:.4g}" for name in known)
        print(f"{run.status:<9} {printable(f'{values}  {what}'.rstrip())}")
        if run.status == "failed":
            print(f"{'':<9} log: {printable(run.log)}")
    counts = ", ".join(f"{number} {state}" for state, number in content["counts"].items() if number)
    print(f"{counts}; {printable(content['summary'])}")
    if content["submitted"]:
        print(f"submitted: {', '.join(content['submitted'])}")
