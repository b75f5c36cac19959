"""An argument parser whose errors are one line that names what was probably meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from robustprune.cli.wording import one_line
from robustprune.run.suggest import did_you_mean, nearest


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    #: the words of the command line, which an error may repeat
    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        said = one_line(message, foreign=Parser.words)
        print(f"error: {said} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    # argparse names an unknown argument without the known ones
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = Parser.words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_options(words)
        known, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Refuse a mistyped option before argparse reports that another one is missing."""
        asked, names = self, self._option_names()
        commands = self._commands()
        for word in words:
            if word == "--":
                return
            if asked is self and word in commands:
                asked = commands[word]
                names += asked._option_names()
            option = word.partition("=")[0]
            if option.startswith("--") and not any(name.startswith(option) for name in names):
                near = did_you_mean(option, names) or asked._without_dashes(option)
                asked.error(f"there is no option {option}{near}")

    def _option_names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def _without_dashes(self, option: str) -> str:
        """Return the hint that the argument called `option` has no dashes in this command."""
        places = {action.dest: action for action in self._actions if not action.option_strings}
        near = nearest(option, places)
        return f" (the {near} needs none: {self.prog} {near.upper()})" if near else ""

    def _commands(self) -> dict[str, Parser]:
        found = (a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        return dict(next((a.choices for a in found), {}))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Check a value as argparse does, but name the nearest choice in the error."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = did_you_mean(str(value), choices)
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"there is no command {value!r}{near}; choose {', '.join(choices)}")
        raise argparse.ArgumentError(
            action, f"{value!r} is not one of {', '.join(choices) or 'the choices'}{near}"
        )
