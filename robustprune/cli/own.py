"""Options for the user's own network and data, which `evaluate` and `certify` share."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.cli.run import add_override_option, add_place_options
from robustprune.cli.shared import number, path_argument
from robustprune.run.config import Config, load_config
from robustprune.run.packaged import config_path

if TYPE_CHECKING:
    import torch

    from robustprune.pipeline.own import Problem

NPZ = "x_test and y_test (or x and y)"


def add_own_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the network, its weights, the examples and the adversary."""
    parser.add_argument(
        "model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="a function without arguments that returns your nn.Module; its module is imported, "
        "from the current folder first",
    )
    path_argument(
        parser, "--state", type=Path, required=True, help="file of its weights (.safetensors)"
    )
    data = parser.add_mutually_exclusive_group(required=True)
    path_argument(
        data,
        "--config",
        metavar="FILE|NAME",
        help="config whose test examples and threat model are used",
    )
    path_argument(data, "--data", type=Path, metavar="FILE.npz", help=f"your own arrays {NPZ}")
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
        help="range of valid inputs (default: none for floats, 0 1 for uint8 pixels)",
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


def load_own(options: argparse.Namespace) -> tuple[torch.nn.Module, Problem]:
    """Load the network and the problem that the options name.

    Raises:
        ValueError, OSError: something does not fit; the message has one line.
    """
    config = _checked(options)
    # Importing torch takes seconds, so the options are checked before.
    from attacks import ThreatModel
    from robustprune.pipeline.own import Problem
    from robustprune.pipeline.own_network import check_fits, load_network
    from robustprune.pipeline.prepare import task_of
    from robustprune.run.runtime import choose_device
    from robustprune.tasks import npz_examples

    device, support = choose_device(options.device), None
    bounds = tuple(options.bounds) if options.bounds else None
    if config is not None:
        task = task_of(config, options.data_dir)
        norm = options.norm or config.threat.norm
        eps = config.threat.eps if options.eps is None else options.eps
        x, y = task.test.batch(slice(options.examples))
        bounds, support, source = task.bounds, task.support, task.name
    else:
        norm, eps, source = options.norm or "linf", options.eps, options.data.name
        x, y, bounds = npz_examples(options.data, bounds=bounds)
    x, y = x[: options.examples].to(device), y[: options.examples].to(device)
    threat = ThreatModel(norm, eps, bounds, support)
    model = load_network(options.model, options.state, device)
    check_fits(model, x, y, options.model)
    return model, Problem(x, y, threat, source)


def _checked(options: argparse.Namespace) -> Config | None:
    """Return the config that the options name, or None, after a check of the options and files.

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
    if not options.state.is_file():
        raise FileNotFoundError(f"there is no state file {options.state}")
    if options.config:
        if options.bounds:
            raise ValueError("--bounds goes with --data; a config's task has its own")
        return load_config(config_path(options.config), options.overrides)
    if options.overrides:
        raise ValueError("--set goes with --config; give --norm, --eps and --bounds instead")
    if options.eps is None:
        raise ValueError("--data needs --eps, the radius in input units, such as 8/255")
    if not options.data.is_file():
        raise FileNotFoundError(f"there is no file {options.data}; --data takes an .npz file")
    return None


def named_settings(options: argparse.Namespace, *others: str) -> dict[str, Any]:
    """Return the options as they were given, and those in `others`, in a form for a file."""
    chosen = {name: getattr(options, name) for name in (*_NAMED, *others)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in chosen.items()}


_NAMED = (
    *("model", "state", "config", "data", "norm", "eps", "bounds"),
    *("examples", "batch_size", "seed", "overrides"),
)
