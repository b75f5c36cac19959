"""`robustprune COMMAND`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shtab

import robustprune
from robustprune.cli import certify, compare, evaluate, listing, report, run, sweep, verify
from robustprune.cli.shared import Parser, carry_out

_ABOUT = """\
Find, train, measure and certify sparse networks that stay correct under adversarial perturbation.

  robustprune list                          what there is: methods, tasks, models, attacks, configs
  robustprune run rst_ecg200 --dry-run      what a run will do and take, before it does
  robustprune run rst_ecg200                search, fine-tune, attack, certify, report
  robustprune COMMAND --help                more, with examples
"""


def parser() -> Parser:
    """The whole command line; importing it does not import torch."""
    whole = Parser(prog="robustprune", formatter_class=argparse.RawDescriptionHelpFormatter)
    whole.description = _ABOUT
    whole.epilog = 'completion: eval "$(robustprune --print-completion bash)" (or zsh, tcsh)'
    whole.add_argument("--version", action="version", version=robustprune.__version__)
    shtab.add_argument_to(whole, "--print-completion", help="print a completion script and stop")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in (run, evaluate, certify, verify, report, compare, sweep, listing):
        command.add(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command, or show what there is to choose; returns the exit status."""
    whole = parser()

    def command(options: argparse.Namespace) -> int:
        if options.command is None:
            whole.print_help()
            return 0
        return int(options.run_command(options))

    return carry_out(whole, arguments, command)
