"""An argument parser whose refusals are one line that names what was probably meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from robustprune.cli.wording import one_line
from robustprune.run.suggest import did_you_mean, nearest


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are one line."""

    #: the words of the command line, which a refusal echoes
    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        said = one_line(message, foreign=Parser.words)
        print(f"error: {said} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    # argparse names what it does not know without a word of what it does
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = Parser.words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_options(words)
        known, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Refuse a mistyped option before argparse complains of another that is missing."""
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
        """The hint that what is called `option` stands alone in this command."""
        places = {action.dest: action for action in self._actions if not action.option_strings}
        near = nearest(option, places)
        return f" (the {near} needs none: {self.prog} {near.upper()})" if near else ""

    def _commands(self) -> dict[str, Parser]:
        found = (a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        return dict(next((a.choices for a in found), {}))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """The same as argparse's, but the nearest choice is named."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = did_you_mean(str(value), choices)
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"there is no command {value!r}{near}; choose {', '.join(choices)}")
        raise argparse.ArgumentError(
            action, f"{value!r} is not one of {', '.join(choices) or 'the choices'}{near}"
        )
