"""Options for the user's own network and data, which `evaluate`, `certify` and `verify` share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.cli.data import add_data_options, data_overrides
from robustprune.cli.run import add_override_option, add_place_options
from robustprune.cli.shared import number, path_argument
from robustprune.run.config import Config, load_config, parsed_overrides, with_values
from robustprune.run.packaged import config_path

if TYPE_CHECKING:
    import torch

    from robustprune.pipeline.own_data import Problem

#: the sections of a config that say how the user's data are read, and what the function is given
_TAKEN = ("task.", "model.options")


def add_own_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the network, its weights, the examples and the adversary."""
    parser.add_argument(
        "model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="a function that returns your nn.Module; its module is imported, from the current "
        "folder first. --set model.options.width=8 gives it an argument. For evaluate also the "
        "folder or hub id of a causal language model",
    )
    add_state_option(parser)
    data = parser.add_mutually_exclusive_group(required=True)
    path_argument(
        data,
        "--config",
        metavar="FILE|NAME",
        help="config whose test examples and threat model are used",
    )
    add_data_options(parser, data)
    parser.add_argument(
        "--norm", choices=("linf", "l2", "l1"), help="norm of perturbations (default: linf)"
    )
    parser.add_argument(
        "--eps", type=number, help="largest perturbation in input units, such as 8/255"
    )
    parser.add_argument(
        "--bounds",
        type=number,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="range of valid inputs (default: 0 1 for pixels and pictures, none for others)",
    )
    parser.add_argument(
        "--examples", type=int, help="number of examples, from the first (default: all)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=250, help="examples at a time (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the attacks (default: 0)")
    add_override_option(parser)
    add_place_options(parser)


def add_state_option(parser: argparse._ActionsContainer) -> None:
    path_argument(
        parser,
        "--state",
        type=Path,
        metavar="FILE",
        help="its weights: .safetensors, or what torch.save(model.state_dict()) wrote (default: "
        "those that the function gives)",
    )


def load_own(
    options: argparse.Namespace, *, eps_of: float | None = None
) -> tuple[torch.nn.Module, Problem]:
    """Load the network and the problem that the options name.

    Args:
        eps_of: a scale that stands for --eps where no claim depends on it; None if it is needed.

    Raises:
        ValueError, OSError: something does not fit; the message has one line.
    """
    config = _checked(options, needs_eps=eps_of is None)
    # Importing torch takes seconds, so the options are checked before.
    from robustprune.pipeline.own_data import config_problem, own_problem
    from robustprune.pipeline.own_network import check_fits, load_network
    from robustprune.run.runtime import choose_device

    device = choose_device(options.device)
    if options.config:
        problem = config_problem(
            config,
            norm=options.norm,
            eps=options.eps,
            examples=options.examples,
            data_dir=options.data_dir,
            device=device,
        )
    else:
        problem = own_problem(
            config.task,
            norm=options.norm,
            eps=options.eps or eps_of or 0.0,
            examples=options.examples,
            device=device,
        )
    arguments = model_options(options.overrides)
    model = load_network(options.model, options.state, device, options=arguments)
    check_fits(model, problem.x, problem.y, options.model)
    return model, problem


def model_options(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of the function, model.options of the overrides alone."""
    values = [(k, v) for k, v in parsed_overrides(overrides) if k.startswith("model.options")]
    return dict(with_values({}, values).model.options)


def _checked(options: argparse.Namespace, *, needs_eps: bool) -> Config:
    """Return the config that the options name, or of the data that they name, after a check of the
    options and files.

    Raises:
        ValueError, OSError: the first problem that was found.
    """
    for name in ("examples", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed {options.seed} must be a whole number from 0")
    if options.eps is not None and not 0 < options.eps < math.inf:
        raise ValueError(f"--eps {options.eps:g} must be a finite number above 0, such as 8/255")
    if options.state is not None and not options.state.is_file():
        raise FileNotFoundError(f"there is no state file {options.state}")
    if options.config:
        if options.bounds:
            raise ValueError("--bounds goes with --data; a config's task has its own")
        others = [o for o in options.overrides if not o.startswith("model.options")]
        return load_config(config_path(options.config), [*data_overrides(options), *others])
    if options.eps is None and needs_eps:
        raise ValueError("--data needs --eps, the radius in input units, such as 8/255")
    return data_config(options.overrides, [*data_overrides(options), *_bounds(options)])


def _bounds(options: argparse.Namespace) -> list[str]:
    return [f"task.bounds=[{options.bounds[0]}, {options.bounds[1]}]"] if options.bounds else []


def data_config(overrides: Sequence[str], named: Sequence[str]) -> Config:
    """Return the default config with the user's data as its task.

    Args:
        overrides: overrides of the user; only those of the task and of the function's arguments.
        named: overrides that say where the data are.

    Raises:
        ValueError: another field is overridden, or a value is not valid.
    """
    for path, _ in parsed_overrides(overrides):
        if not path.startswith(_TAKEN):
            raise ValueError(
                f"--set {path} goes with --config; with --data, --set takes task.* and "
                "model.options, and --norm, --eps and --bounds say what the adversary may do"
            )
    values = [(k, v) for k, v in parsed_overrides(overrides) if k.startswith("task.")]
    return with_values({}, [*parsed_overrides(named), *values])


def named_settings(options: argparse.Namespace, *others: str) -> dict[str, Any]:
    """Return the options as they were given, and those in `others`, in a form for a file."""
    chosen = {name: getattr(options, name) for name in (*_NAMED, *others)}
    chosen["overrides"] = [*data_overrides(options, place=False), *options.overrides]
    return {name: str(v) if isinstance(v, Path) else v for name, v in chosen.items()}


_NAMED = (
    *("model", "state", "config", "data", "norm", "eps", "bounds"),
    *("examples", "batch_size", "seed"),
)
