"""`landseg completion`: the script with which a shell completes landseg's verbs and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

HELP = "print the completion script of a shell"
EXAMPLE = "landseg completion bash > ~/.local/share/bash-completion/completions/landseg"

_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    import shtab  # here, so that no other verb needs it

    from landseg.cli.main import whole_parser

    parser = whole_parser()
    for action in _actions(parser):
        if action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in {"URI", "REF"}:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
