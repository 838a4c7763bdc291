"""`landseg <verb>`: one verb per stage, in pipeline order.

Exit codes: 0 done, 2 user error, 1 a bug, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from landseg import __version__
from landseg.errors import LandsegError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
VERBS = ("make-sample-data", "stage-data", "train", "export-probs", "average-probs", "status", "verify", "doctor")


class _Parser(argparse.ArgumentParser):
    """One line on an error, with the near verb or option where there is one, and status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, 1)
            self.error(f"unknown argument {unknown[0]!r}" + (f", did you mean {near[0]}?" if near else ""))
        return parsed


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"landseg.stages.{verb.replace('-', '_')}")


def stage_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb's flags."""
    module = _module(verb)
    parser = _Parser(prog=f"landseg {verb}", description=module.HELP, allow_abbrev=False)
    module.add_arguments(parser)
    return parser


def _usage() -> str:
    lines = [f"  {verb:18}{_module(verb).HELP}" for verb in VERBS]
    return "\n".join(
        [
            "usage: landseg <verb> [options]",
            "",
            *lines,
            "",
            "landseg <verb> --help shows a verb's options.",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage(), end="")
        return 0 if arguments else 2
    if arguments[0] in {"-V", "--version"}:
        print(f"landseg {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f", did you mean {near[0]!r}?" if near else f", expected one of {', '.join(VERBS)}"
        print(f"landseg: error: unknown verb {verb!r}{hint}", file=sys.stderr)
        return 2
    args = stage_parser(verb).parse_args(arguments[1:])
    try:
        _module(verb).run(args)
    except LandsegError as err:
        print(f"landseg {verb}: error: {err}", file=sys.stderr)
        return 2
    except OSError as err:
        if err.errno not in _DISK_FULL:
            raise
        where = f"{err.filename}: " if err.filename else ""
        print(f"landseg {verb}: error: {where}{err.strerror} (free some, or set --scratch)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"landseg {verb}: interrupted", file=sys.stderr)
        return 130
    return 0
