"""Options that name somebody's own network and data; shared by `evaluate` and `certify`."""

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
    """The network, its weights, the examples, the adversary."""
    parser.add_argument(
        "model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="a function without arguments that returns your nn.Module; its module is imported, "
        "from the current folder first",
    )
    path_argument(parser, "--state", type=Path, required=True, help="its weights, as .safetensors")
    data = parser.add_mutually_exclusive_group(required=True)
    path_argument(
        data, "--config", metavar="FILE|NAME", help="test examples and threat model of a config"
    )
    path_argument(data, "--data", type=Path, metavar="FILE.npz", help=f"arrays {NPZ}")
    parser.add_argument("--norm", choices=("linf", "l2", "l1"), help="(default: linf)")
    parser.add_argument("--eps", type=number, help="radius in input units, such as 8/255")
    parser.add_argument(
        "--bounds",
        type=number,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="range of valid inputs (default: none for floats, 0 1 for uint8 pixels)",
    )
    parser.add_argument("--examples", type=int, help="the first so many (default: all)")
    parser.add_argument("--batch-size", type=int, default=250, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks (default: 0)")
    add_override_option(parser)
    add_place_options(parser)


def load_own(options: argparse.Namespace) -> tuple[torch.nn.Module, Problem]:
    """The network and the problem that the options name.

    Raises:
        ValueError, OSError: whatever does not fit, in one line.
    """
    config = _checked(options)
    # Torch takes seconds to import: what is wrong with the options is said before it does.
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
    """The config that the options name, or None, once they go together and their files are there.

    Raises:
        ValueError, OSError: the first that does not fit.
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
    """The options as they were given, and those in `others`, for a file."""
    chosen = {name: getattr(options, name) for name in (*_NAMED, *others)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in chosen.items()}


_NAMED = (
    *("model", "state", "config", "data", "norm", "eps", "bounds"),
    *("examples", "batch_size", "seed", "overrides"),
)
