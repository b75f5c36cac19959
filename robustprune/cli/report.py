"""`robustprune report` writes the report of a finished run again."""

from __future__ import annotations

import argparse
from pathlib import Path

from robustprune.cli.shared import Parser, add_command, answer, path_argument
from robustprune.run.terminal import printable

#: the largest number of run directories that an error lists
_NAMED = 4
RUN_HELP = "run directory, such as runs/NAME-DIGEST/seed0"


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "report",
        "write report.html and report.md of a run again",
        about="Write report.html, report.md and plots/*.svg of a finished run from its files.",
        examples=(("runs/rst_ecg200-1b2c3d4e/seed0", "one run"),),
        run=_report,
    )
    path_argument(parser, "run", folder=True, type=Path, help=RUN_HELP)


def _report(options: argparse.Namespace) -> int:
    run_directory(options.run)
    from robustprune.report import write_report

    paths = [str(path) for path in write_report(options.run)]
    answer(options, {"files": paths}, lambda: print("\n".join(map(printable, paths))))
    return 0


def run_directory(path: Path) -> Path:
    """Return `path` if it is the directory of a finished run.

    Raises:
        ValueError: it is a file, an unfinished run, or another folder; the message names the runs
            inside it.
        FileNotFoundError: it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no run directory {path}")
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give a run directory, such as runs/NAME-DIGEST/seed0")
    if (path / "metrics.json").exists():
        return path
    if (path / "config.yaml").exists():
        raise ValueError(
            f"the run in {path} isn't finished (it has no metrics.json): give the `robustprune "
            "run` that began it again"
        )
    runs = sorted(file.parent for file in path.glob("*/metrics.json"))
    runs += sorted(file.parent for file in path.glob("*/*/metrics.json"))
    if not runs:
        raise ValueError(f"{path} is no run directory (no metrics.json), and holds none")
    named = ", ".join(map(str, runs[:_NAMED]))
    more = f", ... {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
    raise ValueError(
        f"{path} is no run directory, but holds {len(runs)}: {named}{more}; give one of them"
    )
