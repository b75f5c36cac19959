"""`robustprune report`: the report of a finished run, written anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from robustprune.cli.shared import Parser, add_command, answer, path_argument

RUN_HELP = "run directory, such as runs/NAME-DIGEST/seed0"


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "report",
        "write report.html and report.md of a run anew",
        about="Write report.html, report.md and plots/*.svg of a finished run from its files.",
        examples=(("runs/rst_ecg200-1b2c3d4e/seed0", "one run"),),
        run=_report,
    )
    path_argument(parser, "run", folder=True, type=Path, help=RUN_HELP)


def _report(options: argparse.Namespace) -> int:
    from robustprune.report import write_report

    paths = [str(path) for path in write_report(options.run)]
    answer(options, {"files": paths}, lambda: print("\n".join(paths)))
    return 0
