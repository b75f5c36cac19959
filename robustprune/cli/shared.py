"""What all commands share: their help, their output and their errors."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any, TextIO

import shtab

from robustprune.cli.parser import Parser as Parser
from robustprune.cli.wording import one_line
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.room import no_room

#: pairs (arguments, what they do), which are shown below the options
Examples = Sequence[tuple[str, str]]


def describe(
    parser: argparse.ArgumentParser, about: str, examples: Examples, *, closing: str
) -> None:
    """Set the text of `--help` before and after the options."""
    wide = max(len(arguments) for arguments, _ in examples)
    lines = [f"  {parser.prog} {a:<{wide}}  {what}" for a, what in examples]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = about
    parser.epilog = "\n".join(["examples:", *lines, "", closing])


def add_command(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    summary: str,
    *,
    about: str,
    examples: Examples,
    run: Callable[[argparse.Namespace], int],
    closing: str = "Exit status: 0 done, 2 bad input.",
) -> Parser:
    """Add a command with its help, `--quiet`, `--json` and the function that runs it."""
    parser = commands.add_parser(name, help=summary)
    describe(parser, about, examples, closing=closing)
    parser.set_defaults(run_command=run)
    add_output_options(parser)
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, and no progress, for scripts"
    )


def answer(options: argparse.Namespace, content: Any, show: Callable[[], None]) -> None:
    """Print the result of a command as JSON or by `show`, or not at all with `--quiet`. Of several
    ranks, only the first prints."""
    if _rank() > 0:
        return
    if options.json:
        print(json.dumps(content, allow_nan=False))
    elif not options.quiet:
        show()


def silent(options: argparse.Namespace) -> bool:
    """Return whether progress bars must be hidden."""
    return bool(options.quiet or options.json or _rank() > 0)


def _rank() -> int:
    """Return the number that a launcher of several processes gave to this one."""
    return int(os.environ.get("RANK", "0"))


def path_argument(
    parser: argparse._ActionsContainer, *names: str, folder: bool = False, **settings: Any
) -> None:
    """Add an argument whose value the shell completes with files, or with folders."""
    action = parser.add_argument(*names, **settings)
    action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]


def number(text: str) -> float:
    """Return a number, which may be written as a fraction such as 8/255.

    Raises:
        ArgumentTypeError: it is neither a number nor a fraction.
    """
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number; give one such as 0.1 or 8/255"
        ) from None


def carry_out(
    parser: Parser,
    arguments: Sequence[str] | None,
    command: Callable[[argparse.Namespace], int],
) -> int:
    """Parse the arguments, run the command and return the exit status."""
    try:
        try:
            options = parser.parse_args(arguments)
        finally:  # also after --help, which ends here
            sys.stdout.flush()
    except BrokenPipeError:
        return _nobody_reads()
    return guarded(lambda: command(options))


def guarded(command: Callable[[], int]) -> int:
    """Run a command. An error that the user can correct is one line on stderr and exit status 2."""
    try:
        with warnings.catch_warnings(), _last_words():
            warnings.showwarning = _show_warning
            keep_freed_memory()
            status = command()
            _part_from_other_ranks()
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        return _nobody_reads()
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("ROBUSTPRUNE_TRACEBACK"):
            traceback.print_exc()
        where = f" (rank {_rank()})" if _rank() > 0 else ""
        said = one_line(no_room(error) or str(error), foreign=Parser.words)
        print(f"error{where}: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if _rank() == 0:
            print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _nobody_reads() -> int:
    """Stop silently because the reader of the output, such as `head`, has ended. Return the exit
    status of a program that SIGPIPE ended."""
    with suppress(OSError, ValueError):  # there is no open file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13


@contextmanager
def _last_words() -> Iterator[None]:
    """Inside this context, SIGTERM prints how to continue and then kills the process. No cleanup is
    needed, because a run may die at any moment. It does nothing for one of several ranks, which may
    be waiting for the others where Python can't call a handler."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return

    def die(number: int, frame: object) -> None:
        os.write(2, b"terminated; the same command goes on where it stopped\n")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, die)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _part_from_other_ranks() -> None:
    if "WORLD_SIZE" in os.environ:
        from robustprune.run.runtime import leave

        leave()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning in one line, without its place in the code."""
    print(f"warning: {one_line(str(message))}", file=file or sys.stderr)
