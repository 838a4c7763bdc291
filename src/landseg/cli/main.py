"""`landseg VERB`: the stages in pipeline order, and the verbs that look after runs and machines.

Exit codes: 0 done, 2 user error, 1 a bug, 130 interrupted, 143 terminated. With `--attempts`, the verb runs in a
process of its own for each (:mod:`landseg.cli.attempts`).
"""

from __future__ import annotations

import argparse
import errno
import importlib
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from landseg import __version__
from landseg.cli import attempts, console
from landseg.cli.console import paint
from landseg.cli.parser import Parser, near_miss
from landseg.cli.streams import lasting
from landseg.cli.termination import Terminated, ends_on_sigterm
from landseg.contracts.errors import LandsegError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO)
"""What a file system answers when the machine, not the program, is at fault."""

GROUPS = {
    "stages of the pipeline": (
        "plan-stage",
        "stage-data",
        "train",
        "plan-export",
        "export-probs",
        "plan-average",
        "average-probs",
    ),
    "new images": ("predict",),
    "runs and results": ("status", "verify", "prune"),
    "this machine": ("make-sample-data", "doctor", "completion"),
}
VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)


def module_name(verb: str) -> str:
    """The module of a verb; each verb has its own."""
    return "landseg.cli.completion" if verb == "completion" else f"landseg.stages.{verb.replace('-', '_')}"


def _module(verb: str) -> ModuleType:
    return importlib.import_module(module_name(verb))


def stage_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb's options."""
    module = _module(verb)
    parser = Parser(f"landseg {verb}", module.HELP, module.EXAMPLE)
    module.add_arguments(parser)
    group = parser.add_argument_group("general")
    group.add_argument("-h", "--help", action="help", help="show this help and exit")
    level = group.add_mutually_exclusive_group()
    level.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const="verbose",
        help="also print what is read, found and tried again",
    )
    level.add_argument(
        "-q", "--quiet", dest="verbosity", action="store_const", const="quiet", help="print warnings and errors only"
    )
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """One parser with all verbs, for shell completion."""
    whole = argparse.ArgumentParser(prog="landseg")
    whole.add_argument("-V", "--version", action="version", version=__version__)
    verbs = whole.add_subparsers(dest="verb")
    for verb in VERBS:
        verbs.add_parser(verb, help=_module(verb).HELP, parents=[stage_parser(verb)], add_help=False)
    return whole


def _usage() -> str:
    lines = ["usage: landseg VERB [options]"]
    for title, verbs in GROUPS.items():
        lines += ["", paint(f"{title}:", "bold", sys.stdout), *(f"  {verb:18}{_module(verb).HELP}" for verb in verbs)]
    return "\n".join([*lines, "", "landseg VERB --help shows a verb's options, landseg --version the version.", ""])


def main(argv: Sequence[str] | None = None, *, is_attempt: bool = False) -> int:
    """Run one verb.

    Args:
        argv: the command line's arguments; this process's by default.
        is_attempt: run the verb here even with `--attempts`, and tell errors that may pass by
            `attempts.TRANSIENT_STATUS`.

    Returns:
        The exit status.
    """
    with lasting():
        try:
            status = _run(argv, is_attempt)
            sys.stdout.flush()
        except LandsegError as err:
            return _fail("landseg", str(err))
        return status


def _run(argv: Sequence[str] | None, is_attempt: bool) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage(), end="")
        return 0 if arguments else 2
    if arguments[0] in {"-V", "--version"}:
        print(f"landseg {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        hint = near_miss(verb, VERBS) or f", expected one of {', '.join(VERBS)}"
        return _fail("landseg", f"unknown verb {verb!r}{hint}")
    if not is_attempt and (number := attempts.requested(arguments)) > 1:
        return attempts.run(arguments, number)
    args = stage_parser(verb).parse_args(arguments[1:])
    console.begin(args.verbosity)
    try:
        with ends_on_sigterm():
            _module(verb).run(args)
    except Terminated:
        print(f"landseg {verb}: terminated", file=sys.stderr)
        return 128 + signal.SIGTERM
    except LandsegError as err:
        status = _fail(f"landseg {verb}", str(err))
        return attempts.TRANSIENT_STATUS if is_attempt and err.transient else status
    except OSError as err:
        if err.errno not in (*_DISK_FULL, *_REFUSED):
            raise
        where = f"{err.filename}: " if err.filename else ""
        hint = " (free some, or set --scratch)" if err.errno in _DISK_FULL else ""
        return _fail(f"landseg {verb}", f"{where}{err.strerror}{hint}")
    except KeyboardInterrupt:
        print(f"landseg {verb}: interrupted", file=sys.stderr)
        return 130
    return 0


def _fail(program: str, message: str) -> int:
    print(f"{program}: {paint('error:', 'red', sys.stderr)} {message}", file=sys.stderr)
    return 2
