"""`robustprune trust` measures what the compressed network of a run loses beside the dense one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from robustprune.cli.report import RUN_HELP, run_directory
from robustprune.cli.run import add_place_options
from robustprune.cli.shared import Parser, add_command, answer, path_argument, silent
from robustprune.run.settings import SHADOWS, TrustName
from robustprune.run.terminal import printable

#: the number of rows that the terminal shows
_SHOWN = 12


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "trust",
        "what compression changes besides accuracy, dense against compressed",
        about="Compare a network of a finished run with the dense one on the same examples: "
        "calibration, answers\nby class and group, corruptions, outside inputs, membership, "
        "fairness; of a causal language model\nperplexity, cloze and repetition. Worst first, with "
        "paired tests. Writes trust.html, trust.md\nand trust.json into the run directory.",
        examples=(
            ("runs/rst_ecg200-1b2c3d4e/seed0", "the headline network beside the dense one"),
            ("runs/rst_ecg200-1b2c3d4e/seed0 --network rst --against natural", "two others"),
            ("runs/rst_ecg200-1b2c3d4e/seed0 --groups sex.txt", "with groups, for fairness"),
            ("runs/rst_ecg200-1b2c3d4e/seed0 --with lira backdoor", "trains networks again"),
        ),
        run=_trust,
    )
    path_argument(parser, "run", folder=True, type=Path, help=RUN_HELP)
    parser.add_argument("--network", metavar="NAME", help="network (default: the headline one)")
    parser.add_argument(
        "--against", metavar="NAME", help="dense network (default: adversarial, or dense)"
    )
    path_argument(
        parser,
        "--groups",
        type=Path,
        metavar="FILE",
        help="text file with the group of each test example, one a line",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=1000,
        help="largest number of test examples, from the first (default: %(default)s)",
    )
    parser.add_argument(
        "--with",
        dest="more",
        action="extend",
        nargs="+",
        default=[],
        choices=get_args(TrustName),
        metavar="MEASURE",
        help="also lira, backdoor (both train networks again), set-difference; of causal language "
        "models leakage (trains), set-difference",
    )
    parser.add_argument(
        "--shadows",
        type=int,
        metavar="N",
        help=f"shadow networks of each kind for lira (default: {SHADOWS})",
    )
    path_argument(
        parser,
        "--sets",
        type=Path,
        nargs=2,
        metavar=("FIRST", "SECOND"),
        help="two texts, for set-difference of a causal language model",
    )
    parser.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your own network, if the run has one; its module is imported",
    )
    path_argument(
        parser,
        "--data",
        metavar="PATH",
        type=Path,
        help="where the run's own data are now, if they were moved",
    )
    add_place_options(parser)


def _trust(options: argparse.Namespace) -> int:
    if options.examples < 2:
        raise ValueError(f"--examples {options.examples} must be at least 2")
    if options.shadows is not None and "lira" not in options.more:
        raise ValueError("--shadows has an effect only on --with lira; leave it out")
    shadows = SHADOWS if options.shadows is None else options.shadows
    if shadows < 4 or shadows % 2:
        raise ValueError(f"--shadows {shadows} must be an even number from 4")
    run_directory(options.run)
    # Importing torch takes seconds, so the options are checked before.
    from robustprune.pipeline.trust import trust_run
    from robustprune.pipeline.trust_page import Asked
    from robustprune.run.runtime import choose_device

    content = trust_run(
        options.run,
        Asked(
            options.network,
            options.against,
            options.examples,
            options.groups,
            tuple(options.more),
            shadows,
            None if options.sets is None else tuple(options.sets),
        ),
        data_dir=options.data_dir,
        data=options.data and options.data.expanduser(),
        device=choose_device(options.device),
        network=options.model,
        quiet=silent(options),
    )
    answer(options, content, lambda: _show(options.run, content))
    return 0


def _show(run: Path, content: dict[str, Any]) -> None:
    rows = content["changes"]
    print(printable(f"{content['compressed']} beside {content['dense']}, worst first"))
    _show_rows(rows[:_SHOWN])
    if len(rows) > _SHOWN:
        print(f"  and {len(rows) - _SHOWN} more")
    for name, section in content.get("more", {}).items():
        print(printable(name))
        for figures in section["figures"]:
            print(printable("  " + ", ".join(f"{key}: {text}" for key, text in figures.items())))
        _show_rows(section["changes"])
    for name in ("trust.html", "trust.md", "trust.json"):
        print(printable(str(run / name)))


def _show_rows(rows: list[dict[str, Any]]) -> None:
    for one in rows:
        scale, unit = (100, "%") if one["unit"] == "share" else (1, f" {one['unit']}")
        low, high = (scale * end for end in one["ci95"])
        values = f"{scale * one['dense']:8.4g} -> {scale * one['compressed']:8.4g}{unit:<7}"
        change = f"{scale * one['difference']:+8.3g} [{low:+.3g}, {high:+.3g}]"
        verdict = one["verdict"]
        if verdict == "no difference shown" and one["smallest"] is not None:
            verdict += f" (of {scale * one['smallest']:.2g})"
        elif verdict == "no difference shown":
            verdict += " (too few examples)" if one["se"] or one["difference"] else " (the same)"
        print(printable(f"  {one['name']:<42} {values} {change:<28} {verdict}"))
