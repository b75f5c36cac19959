"""What every command shares: how it is described, how it answers, how it fails."""

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

#: (arguments, what they do), shown below the options
Examples = Sequence[tuple[str, str]]


def describe(
    parser: argparse.ArgumentParser, about: str, examples: Examples, *, closing: str
) -> None:
    """Fill in what `--help` says before and after the options."""
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
    """A command with its help, `--quiet`, `--json` and the function that carries it out."""
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
    """What a command has found: as JSON, as `show` prints it, or not at all; of several ranks,
    the first answers."""
    if _rank() > 0:
        return
    if options.json:
        print(json.dumps(content, allow_nan=False))
    elif not options.quiet:
        show()


def silent(options: argparse.Namespace) -> bool:
    """Whether progress bars would be in the way."""
    return bool(options.quiet or options.json or _rank() > 0)


def _rank() -> int:
    """The number that a launcher of several processes gave to this one."""
    return int(os.environ.get("RANK", "0"))


def path_argument(
    parser: argparse._ActionsContainer, *names: str, folder: bool = False, **settings: Any
) -> None:
    """An argument whose value the shell completes with files, or with folders."""
    action = parser.add_argument(*names, **settings)
    action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]


def number(text: str) -> float:
    """A number, or a fraction such as 8/255.

    Raises:
        ArgumentTypeError: neither.
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
    """Parse the arguments and run the command on them; returns the exit status."""
    try:
        try:
            options = parser.parse_args(arguments)
        finally:  # of --help too, which ends here
            sys.stdout.flush()
    except BrokenPipeError:
        return _nobody_reads()
    return guarded(lambda: command(options))


def guarded(command: Callable[[], int]) -> int:
    """Run a command; what the user can mend is one line on stderr and exit status 2."""
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
    except (ValueError, OSError) as error:
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
    """Stop as a program does whose reader has gone, such as `head`: without a word. Returns the
    exit status of one that SIGPIPE ended."""
    with suppress(OSError, ValueError):  # no file behind it, or none that is open
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13


@contextmanager
def _last_words() -> Iterator[None]:
    """Inside, SIGTERM kills as ever, but not without a word on how to go on. Nothing is unwound: a
    run may die at any moment. Not for a rank among others, which may wait for them where no handler
    of Python's is called."""
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
    """One line, without the place in the code that it comes from."""
    print(f"warning: {one_line(str(message))}", file=file or sys.stderr)
