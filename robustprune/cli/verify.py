"""`robustprune verify` checks certificates without trust in who made them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from robustprune.cli.report import RUN_HELP
from robustprune.cli.run import add_place_options
from robustprune.cli.shared import Parser, add_command, answer, path_argument, silent
from robustprune.run.terminal import printable


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "verify",
        "check a run's certificates without trust in who made them",
        about="Check certificates.jsonl of a run: digests, schema, every bound computed again, "
        "smoothing\ndrawn again, a fresh attack inside each certified ball. What is not checked is "
        "listed, too.",
        examples=(
            ("runs/rst_ecg200-1b2c3d4e/seed0", "with fresh noise and attacks"),
            ("runs/rst_ecg200-1b2c3d4e", "the only run in it"),
            ("runs/rst_ecg200-1b2c3d4e/seed0 --seed 1 --json", "repeatable, for scripts"),
        ),
        run=_verify,
        closing="Exit status: 0 all claims hold, 1 some do not, 2 bad input.",
    )
    path_argument(parser, "run", folder=True, type=Path, help=RUN_HELP)
    add_place_options(parser, device="cpu")
    parser.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your own network, if the certificates are about one; its module is imported",
    )
    parser.add_argument(
        "--seed", type=int, help="seed of fresh noise and attacks (default: a random one)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1_000_000,
        help="largest number of fresh samples for one smoothed claim, and at most 100 times as "
        "many as it was made with (default: %(default)s)",
    )


def _verify(options: argparse.Namespace) -> int:
    if options.samples < 1:
        raise ValueError(f"--samples {options.samples} must be at least 1")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed {options.seed} must be a whole number from 0")
    # Importing torch takes seconds, so the options are checked before.
    from robustprune.certify import report_lines
    from robustprune.pipeline.verify import run_with_certificates, verify_run
    from robustprune.run.runtime import choose_device

    run = run_with_certificates(options.run)
    if run != options.run and not silent(options):
        print(printable(f"verifying {run}, the only run in {options.run}"), file=sys.stderr)
    findings = verify_run(
        run,
        data_dir=options.data_dir,
        device=choose_device(options.device),
        seed=options.seed,
        limit=options.samples,
        network=options.model,
        quiet=silent(options),
    )
    good = all(finding.ok for finding in findings)
    content = {"ok": good, "run": str(run), "findings": [asdict(one) for one in findings]}
    answer(options, content, lambda: print("\n".join(report_lines(findings))))
    return 0 if good else 1
