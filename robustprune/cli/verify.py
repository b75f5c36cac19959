"""`robustprune verify`: certificates checked by somebody who trusts nobody."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from robustprune.cli.report import RUN_HELP
from robustprune.cli.run import add_place_options
from robustprune.cli.shared import Parser, add_command, answer, path_argument


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "verify",
        "check a run's certificates with no trust in who made them",
        about="Check certificates.jsonl of a run: digests, schema, every bound computed again, "
        "smoothing\ndrawn again, a fresh attack inside each certified ball.",
        examples=(
            ("runs/rst_ecg200-1b2c3d4e/seed0", "with fresh noise and attacks"),
            ("runs/rst_ecg200-1b2c3d4e/seed0 --seed 1 --json", "repeatable, for scripts"),
        ),
        run=_verify,
        closing="Exit status: 0 all of it holds, 1 something does not, 2 bad input.",
    )
    path_argument(parser, "run", folder=True, type=Path, help=RUN_HELP)
    add_place_options(parser, device="cpu")
    parser.add_argument("--seed", type=int, help="of fresh noise and attacks (default: drawn)")


def _verify(options: argparse.Namespace) -> int:
    from robustprune.certify import report_lines
    from robustprune.pipeline.verify import verify_run

    if not options.run.is_dir():
        raise FileNotFoundError(f"there is no run directory {options.run}")
    findings = verify_run(
        options.run, data_dir=options.data_dir, device=options.device, seed=options.seed
    )
    good = all(finding.ok for finding in findings)
    content = {"ok": good, "findings": [asdict(finding) for finding in findings]}
    answer(options, content, lambda: print("\n".join(report_lines(findings))))
    return 0 if good else 1
