"""The command line `robustprune COMMAND`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shtab

import robustprune
from robustprune.cli import certify, compare, evaluate, listing, report, run, sweep, trust, verify
from robustprune.cli.shared import Parser, carry_out

_ABOUT = """\
Find, train, measure and certify sparse networks that stay correct under adversarial perturbation.

  robustprune list                          show all methods, tasks, models, attacks, configs
  robustprune run rst_ecg200 --dry-run      show what a run will do, its time and its memory
  robustprune run rst_ecg200                search, fine-tune, attack, certify, report
  robustprune COMMAND --help                show more, with examples
"""


def parser() -> Parser:
    """Return the whole command line. Importing it does not import torch."""
    whole = Parser(prog="robustprune", formatter_class=argparse.RawDescriptionHelpFormatter)
    whole.description = _ABOUT
    whole.epilog = 'completion: eval "$(robustprune --print-completion bash)" (or zsh, tcsh)'
    whole.add_argument("--version", action="version", version=robustprune.__version__)
    shtab.add_argument_to(whole, "--print-completion", help="print a completion script and stop")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in (run, evaluate, certify, verify, trust, report, compare, sweep, listing):
        command.add(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, or show the choices, and return the exit status."""
    whole = parser()

    def command(options: argparse.Namespace) -> int:
        if options.command is None:
            whole.print_help()
            return 0
        return int(options.run_command(options))

    return carry_out(whole, arguments, command)
