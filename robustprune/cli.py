"""The command line: thin callers of the pipeline, with clear one-line errors."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from robustprune.report import terminal_table
from robustprune.run.config import Config, load_config
from robustprune.run.packaged import config_names, config_path

EXAMPLES = """\
examples:
  find_rst.py                                        ECG200, keeping 50% of a random network
  find_rst.py --density 0.05 0.1 0.2 0.5             four tickets, with R2S and a plot over density
  find_rst.py --config rst_mnist --data-dir ~/data   another packaged config
  find_rst.py --config my.yaml --seed 3 --set search.epochs=50 model.options.widths=[32,64,32]

The same command takes up an interrupted run where it stopped. Exit status: 0 done, 2 bad input or
a training that diverged, 130 interrupted.
"""


def find_rst(arguments: Sequence[str] | None = None) -> int:
    """scripts/find_rst.py: find robust scratch tickets and report on them."""
    parser = argparse.ArgumentParser(
        prog="find_rst.py",
        description="Find a robust scratch ticket: the sparse mask under which a randomly "
        "initialised network, whose weights are never trained, is accurate and robust "
        "(Fu et al., NeurIPS 2021).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        default="rst_ecg200",
        metavar="FILE|NAME",
        help=f"YAML file, or one of {', '.join(config_names())} (default: %(default)s)",
    )
    parser.add_argument(
        "--density",
        nargs="+",
        metavar="D",
        help="kept fractions in (0, 1]; several give several tickets",
    )
    parser.add_argument("--seed", help="seed of weights, batches and attacks")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override any field of the config, e.g. threat.eps=8/255",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="where data sets are, or are downloaded to (default: $ROBUSTPRUNE_DATA)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="where runs are kept (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no table")
    options = parser.parse_args(arguments)
    return _guarded(lambda: _find_rst(options))


def _find_rst(options: argparse.Namespace) -> int:
    overrides = list(options.overrides)
    if options.density:
        overrides.append(f"search.density=[{', '.join(options.density)}]")
    if options.seed is not None:
        overrides.append(f"seed={options.seed}")
    config = load_config(config_path(options.config), overrides)
    return run_scratch_tickets(
        config,
        out=options.out,
        data_dir=options.data_dir,
        device=options.device,
        quiet=options.quiet,
    )


def run_scratch_tickets(
    config: Config, *, out: Path, data_dir: Path | None, device: str, quiet: bool
) -> int:
    """Run the pipeline and show its table."""
    # Torch takes seconds to import: `--help` and a mistyped config answer before it does.
    from robustprune.pipeline import find_scratch_tickets, prepare
    from robustprune.run.runtime import choose_device

    run = prepare(config, out=out, data_dir=data_dir, device=choose_device(device), quiet=quiet)
    if not quiet:
        print(f"{config.name}, seed {config.seed}: {run.folder.path}", file=sys.stderr)
    metrics = find_scratch_tickets(run)
    if not quiet:
        Console().print(terminal_table(metrics))
        print(f"report: {run.folder.path / 'report.html'}")
    return 0


def _guarded(command: Callable[[], int]) -> int:
    """Run a command; what the user can mend is one line on stderr and exit status 2."""
    try:
        return command()
    except (ValueError, OSError) as error:
        if os.environ.get("ROBUSTPRUNE_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
