"""`robustprune run` runs a config, from the data to the report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robustprune.cli.data import add_data_options, data_overrides
from robustprune.cli.dry_run import dry_run
from robustprune.cli.shared import Parser, add_command, answer, number, path_argument, silent
from robustprune.cli.wording import echo
from robustprune.run.config import (
    METHODS,
    OBJECTIVES,
    Config,
    load_config,
    parsed_overrides,
    read_tree,
)
from robustprune.run.naming import check_code_is_named
from robustprune.run.packaged import config_names, config_path
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import printable

#: the name of the network that stands for any causal language model
CAUSAL = "causal"
RESUMES = (
    "The same command continues an interrupted run where it stopped. Exit status: 0 done, 2 bad "
    "input\nor a training that diverged, 130 interrupted."
)


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "run",
        "run a config, or continue an interrupted run",
        about="Do all that a config describes, in a run directory: load data, train dense "
        "baselines,\nsearch, fine-tune, attack, certify, and write a report.",
        examples=(
            ("rst_ecg200", "a packaged config"),
            ("rst_ecg200 --dry-run", "what it would do, and its time and memory"),
            ("my.yaml --seed 3 --set threat.eps=8/255", "your own, with fields changed"),
            ("rst_mnist --data-dir ~/data --json", "one JSON object at the end"),
        ),
        run=run_config,
        closing=RESUMES,
    )
    path_argument(
        parser,
        "config",
        metavar="FILE|NAME",
        help=f"YAML file, or one of {', '.join(config_names())}",
    )
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs a config."""
    parser.add_argument(
        "--method",
        nargs="+",
        metavar="M",
        help=f"any of {', '.join(METHODS)} (default: what the config says)",
    )
    parser.add_argument(
        "--density",
        nargs="+",
        metavar="D",
        help="fraction of weights to keep, in (0, 1]; several give several tickets",
    )
    parser.add_argument(
        "--objective",
        metavar="O",
        help=f"training loss: {', '.join(OBJECTIVES)} (default: what the config says)",
    )
    parser.add_argument("--seed", help="seed of weights, batches and attacks")
    add_model_option(parser)
    add_data_options(parser)
    add_override_option(parser)
    add_place_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the whole config and an estimate of time and memory; write nothing",
    )
    path_argument(
        parser,
        "--out",
        folder=True,
        type=Path,
        default=Path("runs"),
        help="folder of the run directories (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=15.0,
        metavar="S",
        help="save a training's state every S seconds (default: 15); within an epoch less often, "
        "if saving would take more than a twentieth of the time",
    )


def add_model_option(parser: argparse.ArgumentParser, **settings: Any) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the network: a name of `robustprune list models`, or your own function as "
        "PACKAGE.MODULE:FUNCTION, whose module is imported",
        **settings,
    )


def add_override_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override any field of the config, e.g. threat.eps=8/255",
    )


def add_place_options(parser: argparse.ArgumentParser, *, device: str = "auto") -> None:
    """Add the options for the folder of the data and the device."""
    path_argument(
        parser,
        "--data-dir",
        folder=True,
        type=Path,
        help="folder of data sets and downloads (default: $ROBUSTPRUNE_DATA)",
    )
    parser.add_argument(
        "--device", default=device, help="cpu, cuda, cuda:1, ... (default: %(default)s)"
    )


def chosen_config(options: argparse.Namespace) -> Config:
    """Return the config that the options name, with their overrides.

    Raises:
        ValueError: an option is not as its help says, or `load_config` refuses the config.
        FileNotFoundError: as in `load_config`.
    """
    overrides = []
    if options.model:
        overrides.append(f"model.name={json.dumps(options.model)}")
    text = _network_of(options) == CAUSAL
    overrides += [*data_overrides(options, text=text), *options.overrides]
    if options.method:
        names = [_one_of("--method", name, METHODS) for name in options.method]
        overrides.append(f"search.methods=[{', '.join(names)}]")
    if options.density:
        kept = [_density(text) for text in options.density]
        overrides.append(f"search.density=[{', '.join(kept)}]")
    if options.objective:
        overrides.append(f"objective.name={_one_of('--objective', options.objective, OBJECTIVES)}")
    if options.seed is not None:
        if not options.seed.isdecimal():
            raise ValueError(f"--seed {echo(options.seed)} must be a whole number from 0")
        overrides.append(f"seed={int(options.seed)}")
    if not options.checkpoint_seconds >= 0:
        raise ValueError(f"--checkpoint-seconds {options.checkpoint_seconds} must be at least 0")
    config = load_config(config_path(options.config), overrides)
    check_code_is_named(config.model.name, named_code(options.model, options.overrides))
    return config


def _network_of(options: argparse.Namespace) -> object:
    """Return the name of the network before the config is checked, by which --data is read."""
    section = read_tree(config_path(options.config)).get("model")
    for path, value in parsed_overrides(options.overrides):
        if path == "model":
            section = value
        elif path == "model.name":
            section = {"name": value}
    return options.model or (section.get("name") if isinstance(section, dict) else None)


def named_code(model: str | None, overrides: Sequence[str]) -> list[str]:
    """Return the networks that the command line names by --model, model.name or model."""
    named = [model] if model else []
    for path, value in parsed_overrides(overrides):
        if path == "model" and isinstance(value, dict):
            path, value = "model.name", value.get("name")
        if path == "model.name" and isinstance(value, str):
            named.append(value)
    return named


def _one_of(option: str, name: str, allowed: Sequence[str]) -> str:
    if name not in allowed:
        near = did_you_mean(name, allowed)
        raise ValueError(f"{option} {echo(name)} is not one of {', '.join(allowed)}{near}")
    return name


def _density(text: str) -> str:
    """Return a density as it was written, if it is valid."""
    wrong = f"--density {echo(text)}: a density is the share of weights that is kept, in (0, 1]"
    percent = text.endswith("%")
    try:
        value = number(text.removesuffix("%"))
    except argparse.ArgumentTypeError:
        raise ValueError(f"{wrong}, such as 0.1") from None
    if percent or 1 < value <= 100:
        raise ValueError(f"{wrong}; did you mean {value / 100:g}?")
    if not 0 < value <= 1:
        raise ValueError(f"{wrong}, such as 0.1")
    return text


def run_config(options: argparse.Namespace) -> int:
    """Run the pipeline and show its table."""
    config = chosen_config(options)
    if options.dry_run:
        return dry_run(config, options)
    # Importing torch takes seconds; `--help` and errors in the config come before.
    from rich.console import Console

    from robustprune.models.language import transformers_library
    from robustprune.pipeline import find_sparse_networks, prepare
    from robustprune.pipeline.prepare import is_causal
    from robustprune.report import terminal_table
    from robustprune.run.runtime import choose_device

    quiet = silent(options)
    places: dict[str, Any] = {
        "out": options.out,
        "data_dir": options.data_dir,
        "device": choose_device(options.device),
        "quiet": quiet,
        "checkpoint_seconds": options.checkpoint_seconds,
    }
    if is_causal(config):
        transformers_library()  # says in one line that it is missing
        from robustprune.pipeline.causal import prune_causal
        from robustprune.pipeline.causal_run import prepare_causal

        language = prepare_causal(config, **places)
        folder, carry_on = language.folder.path, partial(prune_causal, language)
    else:
        run = prepare(config, network=config.model.name, **places)
        folder, carry_on = run.folder.path, partial(find_sparse_networks, run)
    if not quiet:
        print(printable(f"{config.name}, seed {config.seed}: {folder}"), file=sys.stderr)
    metrics = carry_on()

    def show() -> None:
        Console().print(terminal_table(metrics))
        print(printable(f"report: {folder / 'report.html'}"))

    answer(options, {"run": str(folder), "metrics": metrics}, show)
    return 0
