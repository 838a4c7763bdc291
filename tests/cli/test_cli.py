"""The command line as a whole: every verb, its help, exit codes and error lines."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from landseg import __version__
from landseg.cli import console
from landseg.cli import main as cli
from landseg.cli.progress import Progress
from landseg.contracts.errors import DataError


def landseg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "landseg", *arguments], capture_output=True, text=True)


def test_help_lists_every_verb_and_imports_no_torch() -> None:
    code = "import sys; from landseg.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert all(any(line.strip().startswith(verb) for line in lines) for verb in cli.VERBS)
    assert lines[-1] == "False"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_its_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([verb, "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: landseg {verb}")
    assert "\x1b" not in text
    actions = cli.stage_parser(verb)._actions
    assert not [action.dest for action in actions if not action.help]
    entries = {entry.split()[0].rstrip(","): entry for entry in re.split(r"\n  (?=-)", text)[1:]}
    for action in actions:
        if action.option_strings and action.default not in (None, "", False, [], argparse.SUPPRESS):
            assert "(default:" in entries[action.option_strings[0]], action.option_strings
    longest = max(map(len, text.split("example:")[0].splitlines()))
    assert longest <= 100 and text.count("\n") <= 85


def test_only_stages_that_leave_files_ask_where_they_go() -> None:
    stages = cli.GROUPS["stages of the pipeline"]
    without = {stage for stage in stages if "--output-dir" not in cli.stage_parser(stage).format_help()}
    assert without == {"plan-stage", "plan-export", "plan-average"}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_example_of_every_verb_is_understood(verb: str) -> None:
    example = importlib.import_module(cli.module_name(verb)).EXAMPLE
    program, given, *arguments = shlex.split(example.replace("\\\n", " ").split(" > ")[0])
    assert (program, given) == ("landseg", verb)
    cli.stage_parser(verb).parse_args(arguments)


def test_version() -> None:
    assert landseg("--version").stdout == f"landseg {__version__}\n"


def test_no_verb_shows_the_usage_and_fails() -> None:
    done = landseg()
    assert done.returncode == 2
    assert "usage: landseg VERB" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stage-dta"], "unknown verb 'stage-dta', did you mean stage-data?"),
        (["frobnicate"], "unknown verb 'frobnicate', expected one of plan-stage, stage-data"),
        (["stage-data", "--sorce", "x", "--storage-uri", "y"], "unknown option '--sorce', did you mean --source?"),
        (["status", "--storage_uri=x", "--run-id", "y"], "unknown option '--storage_uri', did you mean --storage-uri?"),
        (["status", "--storage-uri", "x", "--run-id", "y", "z"], "unknown argument 'z'"),
        (["export-probs", "--tta", "vh"], "invalid choice: 'vh' (choose from 'none', 'h', 'hv', 'd4')"),
        (["stage-data"], "--source"),
        (["make-sample-data", "x", "--train", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(arguments: list[str], said: str) -> None:
    done = landseg(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def _verb_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    module = ModuleType("broken")

    def run(args: argparse.Namespace) -> None:
        raise error

    vars(module).update(HELP="fails", EXAMPLE="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "landseg.stages.train", module)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            DataError("tile 7", "expected 3 bands, found 4", "set bands"),
            2,
            "error: tile 7: expected 3 bands, found 4 (set bands)",
        ),
        (OSError(28, "No space left on device", "/scratch/x"), 2, "error: /scratch/x: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    _verb_that_raises(monkeypatch, error)
    assert cli.main(["train"]) == status
    said = capsys.readouterr().err
    assert said.startswith(f"landseg train: {line}")
    assert said.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _verb_that_raises(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    monkeypatch.setenv(console.VARIABLE, "normal")
    logger = logging.getLogger("landseg")
    yield logger
    console.begin("normal")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "information\nwarning: careful\nwork: 100% 1/1 tiles"),
        (["-q"], "warning: careful\n"),
        (["--quiet"], "warning: careful\n"),
        (["-v"], "detail\ninformation\nwarning: careful\nwork: 100% 1/1 tiles"),
    ],
)
def test_how_much_is_said(
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    module = ModuleType("talks")

    def run(args: argparse.Namespace) -> None:
        for level, text in ((logging.DEBUG, "detail"), (logging.INFO, "information"), (logging.WARNING, "careful")):
            logging.getLogger("landseg.stages.train").log(level, "%s", text)
        with Progress("work", 1, "tiles", interval_s=0) as progress:
            progress.advance()
        code = (
            "import logging, sys; from landseg.cli import console; "
            "console.begin(sys.argv[1]); print(logging.getLogger('landseg').level)"
        )
        child = [sys.executable, "-c", code, console.verbosity()]
        shown = subprocess.run(child, capture_output=True, text=True, check=True).stdout
        assert int(shown) == logging.getLogger("landseg").level

    vars(module).update(HELP="talks", EXAMPLE="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "landseg.stages.train", module)
    assert cli.main(["train", *flags]) == 0
    assert capsys.readouterr().err.startswith(said)


def on_a_terminal(*arguments: str, **environment: str) -> str:
    leader, follower = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | environment
    with subprocess.Popen([sys.executable, "-m", "landseg", *arguments], stdout=follower, stderr=follower, env=env):
        os.close(follower)
        said = b""
        while chunk := _read(leader):
            said += chunk
    os.close(leader)
    return said.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux tells that the other side of a pseudo terminal is closed
        return b""


def test_colours_are_for_terminals() -> None:
    wrong = ("stage-dta",)
    assert "\x1b[1;31merror:\x1b[0m" in on_a_terminal(*wrong)
    assert "\x1b" not in on_a_terminal(*wrong, NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(*wrong, TERM="dumb")
    assert "\x1b" not in landseg(*wrong).stderr


BASH = """
source "$1"
COMP_LINE="$2"; COMP_POINT=${#2}; read -ra COMP_WORDS <<< "$2"; COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_shtab_landseg
printf '%s\n' "${COMPREPLY[@]}"
"""
COMPLETED = [("landseg st", {"stage-data", "status"}), ("landseg export-probs --tt", {"--tta"})]


@pytest.mark.parametrize(("line", "expected"), COMPLETED)
def test_bash_completes(tmp_path: Path, line: str, expected: set[str]) -> None:
    script = tmp_path / "landseg"
    script.write_text(landseg("completion", "bash").stdout)
    done = subprocess.run(["bash", "-c", BASH, "bash", script, line], capture_output=True, text=True)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("line", "expected"), COMPLETED)
def test_fish_completes(tmp_path: Path, line: str, expected: set[str]) -> None:
    script = tmp_path / "landseg.fish"
    script.write_text(landseg("completion", "fish").stdout)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script}; complete --do-complete '{line}'"],
        capture_output=True,
        text=True,
    )
    assert {found.split("\t")[0] for found in done.stdout.splitlines()} == expected, done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_script_and_knows_the_verbs(tmp_path: Path) -> None:
    (tmp_path / "_landseg").write_text(landseg("completion", "zsh").stdout)
    code = 'fpath=("$1" $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[landseg]; '
    code += (
        '_arguments() { print -l -- "$@"; }; _describe() { print -l -- "${(@P)2}"; }; _landseg; _shtab_landseg_commands'
    )
    done = subprocess.run(["zsh", "-f", "-c", code, "zsh", tmp_path], capture_output=True, text=True)
    assert done.stdout.startswith("_landseg\n"), done.stderr
    assert all(f"\n{verb}:" in done.stdout for verb in cli.VERBS), done.stdout
