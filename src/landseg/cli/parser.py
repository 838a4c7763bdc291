"""How options are parsed and explained: argparse with a short usage, defaults, an example and suggestions."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from landseg.cli.console import paint

_MAX_WIDTH = 100
_NOT_SHOWN = ("None", "", "False", "[]", argparse.SUPPRESS)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the default of every option that has one, unless its help already does."""

    def __init__(self, prog: str) -> None:
        width = min(_MAX_WIDTH, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=26, width=width)

    def start_section(self, heading: str | None) -> None:
        super().start_section(None if heading is None else paint(heading, "bold", sys.stdout))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if not action.option_strings or "(default: " in text or str(action.default) in _NOT_SHOWN:
            return text
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, with the nearest option if there is one, and exits with status 2.

    Args:
        prog: the program's name.
        description: what it does, in one line.
        example: one command line that works.
    """

    def __init__(self, prog: str, description: str, example: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"{paint('example:', 'bold', sys.stdout)}\n  {example}" if example else None,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._positionals.title = "arguments"
        # What begins so is a value, which its own check refuses (`--weights -1,2`): no option is called like a number.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def format_usage(self) -> str:
        """The usage in one line."""
        self._name_required()
        return super().format_usage()

    def format_help(self) -> str:
        """The usage with only the required options; the others are listed below it."""
        self._name_required()
        return super().format_help()

    def _name_required(self) -> None:
        needed = [action for action in self._actions if action.required]
        words = [" ".join([*action.option_strings[:1], str(action.metavar or action.dest)]) for action in needed]
        self.usage = " ".join(["%(prog)s", *words, "[options]"])

    def error(self, message: str) -> NoReturn:
        """Print one line, and end with status 2."""
        self.exit(2, f"{self.prog}: {paint('error:', 'red', sys.stderr)} {message} (see {self.prog} --help)\n")

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse, and refuse unknown arguments.

        An unknown option is reported before a required one that is missing: it may be a misspelling of that one.
        """
        given = list(sys.argv[1:] if args is None else args)
        for argument in given[: given.index("--")] if "--" in given else given:
            name = argument.split("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                self.error(f"unknown option {name!r}{near_miss(name, self._option_string_actions)}")
        parsed, unknown = self.parse_known_args(given, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}")
        return parsed


def near_miss(word: str, known: Iterable[str]) -> str:
    """`, did you mean X?` if a known word is similar, else nothing."""
    near: Sequence[str] = difflib.get_close_matches(word, list(known), 1)
    return f", did you mean {near[0]}?" if near else ""
