"""`robustprune verify` checks certificates without trust in who made them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.cli.data import add_data_options, data_overrides
from robustprune.cli.own import add_state_option, data_config, model_options
from robustprune.cli.report import RUN_HELP
from robustprune.cli.run import add_override_option, add_place_options
from robustprune.cli.shared import Parser, add_command, answer, path_argument, silent
from robustprune.run.config import load_config
from robustprune.run.packaged import config_path
from robustprune.run.terminal import printable

if TYPE_CHECKING:
    import torch

    from robustprune.certify import CheckResult
    from robustprune.pipeline.own_data import Problem
    from robustprune.pipeline.own_verify import Asked

#: what certify.json may say of how to read the data; where they are, and what the user's function
#: is given, only the command line says
_STATED = (
    *("task.label", "task.layout", "task.test", "task.header", "task.length", "task.missing"),
    *("task.size", "task.bounds", "threat.norm", "threat.eps"),
)


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "verify",
        "check certificates without trust in who made them",
        about="Check certificates.jsonl of a run, or of your own network: digests, schema, every "
        "bound\ncomputed again, smoothing drawn again, a fresh attack inside each certified ball. "
        "What is not\nchecked is listed, too.",
        examples=(
            ("runs/rst_ecg200-1b2c3d4e/seed0", "with fresh noise and attacks"),
            ("runs/rst_ecg200-1b2c3d4e", "the only run in it"),
            ("runs/rst_ecg200-1b2c3d4e/seed0 --seed 1 --json", "repeatable, for scripts"),
            (
                "certificates --model nets:build --state net.safetensors --data test.npz",
                "what `robustprune certify` wrote about your own network",
            ),
        ),
        run=_verify,
        closing="Exit status: 0 all claims hold, 1 some do not, 2 bad input.",
    )
    path_argument(
        parser,
        "run",
        folder=True,
        type=Path,
        help=f"{RUN_HELP}, or the folder of `robustprune certify`",
    )
    add_place_options(parser, device="cpu")
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
    own = parser.add_argument_group(
        "your own network and data, which no file may name",
        "Of a run, --data says where its own data are now, if they were moved.",
    )
    own.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="a function that returns it; its module is imported",
    )
    add_state_option(own)
    data = own.add_mutually_exclusive_group()
    path_argument(
        data, "--config", metavar="FILE|NAME", help="config whose test examples are certified"
    )
    add_data_options(own, data)
    add_override_option(own)


def _verify(options: argparse.Namespace) -> int:
    if options.samples < 1:
        raise ValueError(f"--samples {options.samples} must be at least 1")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed {options.seed} must be a whole number from 0")
    # Importing torch takes seconds, so the options are checked before.
    from robustprune.certify import report_lines
    from robustprune.pipeline.verify import is_own, run_with_certificates, verify_run
    from robustprune.run.runtime import choose_device

    device = choose_device(options.device)
    if is_own(options.run):
        run, findings = options.run, _own_findings(options, device)
    else:
        run = run_with_certificates(options.run)
        if run != options.run and not silent(options):
            print(printable(f"verifying {run}, the only run in {options.run}"), file=sys.stderr)
        _check_unused(options)
        findings = verify_run(
            run,
            data_dir=options.data_dir,
            data=options.data and Path(options.data).expanduser(),
            device=device,
            seed=options.seed,
            limit=options.samples,
            network=options.model,
            quiet=silent(options),
        )
    good = all(finding.ok for finding in findings)
    content = {"ok": good, "run": str(run), "findings": [asdict(one) for one in findings]}
    answer(options, content, lambda: print("\n".join(report_lines(findings))))
    return 0 if good else 1


def _check_unused(options: argparse.Namespace) -> None:
    """Refuse options that a run does not need, because its own config says what was certified."""
    for name in ("state", "config", "label", "layout", "test", "overrides"):
        if getattr(options, name):
            shown = "set" if name == "overrides" else name
            raise ValueError(
                f"--{shown} is for certificates of your own network, and {options.run} is a run; "
                "leave it out"
            )


def _own_findings(options: argparse.Namespace, device: torch.device) -> list[CheckResult]:
    """Verify certificates of the user's own network."""
    from robustprune.pipeline.own_verify import Named, read_asked, verify_own

    asked = read_asked(options.run)
    if options.model is None or not (options.data or options.config):
        where = f"--config {asked.config}" if asked.config else f"--data {asked.data}"
        state = f"--state {asked.state} " if asked.state else ""
        raise ValueError(
            f"{options.run} holds certificates of your own network; name it and its data yourself, "
            f"such as --model {asked.model} {state}{where}"
        )
    stated = [one for one in asked.overrides if one.partition("=")[0].strip() in _STATED]
    overrides = [*stated, *options.overrides]
    named = Named(
        options.model,
        model_options(options.overrides),
        options.state,
        lambda asked: _problem(options, asked, overrides, device),
    )
    return verify_own(
        options.run,
        asked,
        named,
        device=device,
        seed=options.seed,
        limit=options.samples,
        quiet=silent(options),
    )


def _problem(
    options: argparse.Namespace, asked: Asked, overrides: list[str], device: torch.device
) -> Problem:
    from robustprune.pipeline.own_data import config_problem, own_problem

    if options.config:
        others = [one for one in overrides if not one.startswith("model.options")]
        return config_problem(
            load_config(config_path(options.config), others),
            norm=asked.norm,
            eps=asked.eps,
            examples=asked.examples,
            data_dir=options.data_dir,
            device=device,
        )
    bounds = [f"task.bounds=[{asked.bounds[0]}, {asked.bounds[1]}]"] if asked.bounds else []
    eps = asked.eps or asked.sigma
    if eps is None:
        raise ValueError(f"{options.run} has neither eps nor sigma in certify.json")
    config = data_config(overrides, [*data_overrides(options), *bounds])
    return own_problem(
        config.task, norm=asked.norm, eps=eps, examples=asked.examples, device=device
    )
