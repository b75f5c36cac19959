"""The command line: thin callers of the pipeline, with clear one-line errors."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console

from robustprune.run.config import METHODS, OBJECTIVES, Config, load_config
from robustprune.run.packaged import config_names, config_path


@dataclass(frozen=True)
class Script:
    """What tells one script from another: its name, its default config, what its help says."""

    name: str
    config: str
    about: str
    examples: tuple[tuple[str, str], ...]


FIND_RST = Script(
    "find_rst.py",
    "rst_ecg200",
    "Find a robust scratch ticket: the sparse mask under which a randomly initialised network, "
    "whose weights are never trained, is accurate and robust (Fu et al., NeurIPS 2021).",
    (
        ("", "ECG200, keeping 50% of a random network"),
        ("--density 0.05 0.1 0.2 0.5", "four tickets, with R2S and a plot over density"),
        ("--config rst_mnist --data-dir ~/data", "another packaged config"),
        ("--objective crown-ibp --set threat.eps=0.05", "a certified scratch ticket"),
        ("--config my.yaml --seed 3 --set search.epochs=50", "your own config, one field changed"),
    ),
)
PRUNE_ADMM = Script(
    "prune_admm.py",
    "admm_ecg200",
    "Prune an adversarially trained network by ADMM while it goes on training under attack, then "
    "retrain what is left (Ye et al., ICCV 2019).",
    (
        ("", "ECG200, keeping 10% of the weights"),
        ("--density 0.5 --set search.pattern=2:4", "two of every four inputs"),
        ("--set search.pattern=filter", "whole filters, which makes the network smaller"),
        ("--method admm_l1 --set admm.l1=1e-4", "the l1 form: a weight λ instead of a density"),
    ),
)
PRUNE_SCORES = Script(
    "prune_scores.py",
    "scores_ecg200",
    "Learn which weights of an adversarially trained network to keep, under the robust loss: HYDRA "
    "(Sehwag et al., NeurIPS 2020) and HARP, which learns each layer's share (Zhao et al., ICLR "
    "2023); then fine-tune them.",
    (
        ("", "ECG200, HYDRA and HARP keeping 10%"),
        ("--method hydra --density 0.01 0.05 0.1", "three densities, a plot over density"),
        ("--set objective.name=trades", "TRADES in place of adversarial training"),
    ),
)
FIND_LOTTERY = Script(
    "find_lottery_ticket.py",
    "lottery_ecg200",
    "Find a lottery ticket: train, prune the smallest weights, rewind, train again (Frankle & "
    "Carbin, ICLR 2019), under attack; with random and re-initialised controls.",
    (
        ("", "ECG200, keeping 20% in five rounds"),
        ("--set lottery.rounds=1", "one-shot"),
        ("--set lottery.rewind=40", "rewind to step 40 instead of the initial weights"),
    ),
)
PRUNE_ONE_SHOT = Script(
    "prune_one_shot.py",
    "one_shot_ecg200",
    "Score every weight once, by magnitude, noise, SNIP, GraSP or the diagonal of the Hessian "
    "(OBD), under attack; keep the best and fine-tune them.",
    (
        ("", "ECG200, all criteria at 10%"),
        ("--method snip grasp --set one_shot.weights=random", "pruning at initialisation"),
    ),
)
COMPARE_METHODS = Script(
    "compare_methods.py",
    "methods_ecg200",
    "Every method on the same data, network, objective and density, in one table.",
    (
        ("", "ECG200, ten methods at 10%"),
        ("--method admm hydra magnitude --density 0.05", "three of them"),
    ),
)


def run_script(script: Script, arguments: Sequence[str] | None = None) -> int:
    """What `scripts/<name>` does; returns the exit status."""
    wide = max(len(options) for options, _ in script.examples)
    examples = "\n".join(
        f"  {script.name} {options:<{wide}}  {what}" for options, what in script.examples
    )
    parser = argparse.ArgumentParser(
        prog=script.name,
        description=script.about,
        epilog=f"examples:\n{examples}\n\nThe same command takes up an interrupted run where it "
        "stopped. Exit status: 0 done, 2 bad input\nor a training that diverged, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        default=script.config,
        metavar="FILE|NAME",
        help=f"YAML file, or one of {', '.join(config_names())} (default: %(default)s)",
    )
    _add_run_options(parser)
    options = parser.parse_args(arguments)
    return _guarded(lambda: _run_script(options))


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """What every command that runs a config takes."""
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
        help="kept fractions in (0, 1]; several give several tickets",
    )
    parser.add_argument(
        "--objective",
        metavar="O",
        help=f"what is descended: {', '.join(OBJECTIVES)} (default: what the config says)",
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
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=15.0,
        metavar="S",
        help="keep a training's state after an epoch, at most every S seconds (default: 15)",
    )


def _run_script(options: argparse.Namespace) -> int:
    overrides = list(options.overrides)
    if options.method:
        overrides.append(f"search.methods=[{', '.join(options.method)}]")
    if options.density:
        overrides.append(f"search.density=[{', '.join(options.density)}]")
    if options.objective:
        overrides.append(f"objective.name={options.objective}")
    if options.seed is not None:
        overrides.append(f"seed={options.seed}")
    config = load_config(config_path(options.config), overrides)
    return run_pipeline(
        config,
        out=options.out,
        data_dir=options.data_dir,
        device=options.device,
        quiet=options.quiet,
        checkpoint_seconds=options.checkpoint_seconds,
    )


def run_pipeline(
    config: Config,
    *,
    out: Path,
    data_dir: Path | None,
    device: str,
    quiet: bool,
    checkpoint_seconds: float = 15.0,
) -> int:
    """Run the pipeline and show its table."""
    # Torch takes seconds to import: `--help` and a mistyped config answer before it does.
    from robustprune.pipeline import find_sparse_networks, prepare
    from robustprune.report import terminal_table
    from robustprune.run.runtime import choose_device

    run = prepare(
        config,
        out=out,
        data_dir=data_dir,
        device=choose_device(device),
        quiet=quiet,
        checkpoint_seconds=checkpoint_seconds,
    )
    if not quiet:
        print(f"{config.name}, seed {config.seed}: {run.folder.path}", file=sys.stderr)
    metrics = find_sparse_networks(run)
    if not quiet:
        Console().print(terminal_table(metrics))
        print(f"report: {run.folder.path / 'report.html'}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`robustprune`: run a config, write a report anew, verify certificates."""
    parser = argparse.ArgumentParser(
        prog="robustprune",
        description="Find, train, measure and certify sparse networks that stay correct under "
        "adversarial perturbation.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a config, or take up an interrupted run")
    run.add_argument(
        "config", metavar="FILE|NAME", help=f"YAML file, or one of {', '.join(config_names())}"
    )
    _add_run_options(run)
    report = commands.add_parser("report", help="write report.html and report.md of a run anew")
    report.add_argument("run", type=Path, help="run directory, such as runs/NAME-DIGEST/seed0")
    verify = commands.add_parser(
        "verify",
        help="check a run's certificates with no trust in who made them",
        description="Check certificates.jsonl of a run: digests, schema, every bound computed "
        "again, smoothing drawn again, a fresh attack inside each certified ball. Exit status: "
        "0 all of it holds, 1 something does not, 2 bad input.",
    )
    verify.add_argument("run", type=Path, help="run directory, such as runs/NAME-DIGEST/seed0")
    verify.add_argument("--data-dir", type=Path, help="where the task's data are")
    verify.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    verify.add_argument("--seed", type=int, help="of fresh noise and attacks (default: drawn)")
    options = parser.parse_args(arguments)
    if options.command == "run":
        return _guarded(lambda: _run_script(options))
    if options.command == "verify":
        return _guarded(lambda: _verify(options))
    return _guarded(lambda: _report(options.run))


def _verify(options: argparse.Namespace) -> int:
    from robustprune.certify import report_lines
    from robustprune.pipeline.verify import verify_run

    if not options.run.is_dir():
        raise FileNotFoundError(f"there is no run directory {options.run}")
    findings = verify_run(
        options.run, data_dir=options.data_dir, device=options.device, seed=options.seed
    )
    print("\n".join(report_lines(findings)))
    return 0 if all(finding.ok for finding in findings) else 1


def _report(folder: Path) -> int:
    from robustprune.report import write_report

    for path in write_report(folder):
        print(path)
    return 0


def _guarded(command: Callable[[], int]) -> int:
    """Run a command; what the user can mend is one line on stderr and exit status 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return command()
    except (ValueError, OSError) as error:
        if os.environ.get("ROBUSTPRUNE_TRACEBACK"):
            traceback.print_exc()
        from robustprune.run.checkpoint import no_room

        print(f"error: {' '.join((no_room(error) or str(error)).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line, without the place in the code that it comes from."""
    print(f"warning: {' '.join(str(message).split())}", file=file or sys.stderr)
