from __future__ import annotations

import argparse
import subprocess
import sys
from types import ModuleType

import pytest

from landseg import __version__, cli
from landseg.errors import DataError


def landseg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "landseg", *arguments], capture_output=True, text=True)


def test_help_lists_every_verb_and_imports_no_torch() -> None:
    code = "import sys; from landseg.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert all(any(line.strip().startswith(verb) for line in lines) for verb in cli.VERBS)
    assert lines[-1] == "False"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_its_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([verb, "--help"])
    assert done.value.code == 0
    assert f"usage: landseg {verb}" in capsys.readouterr().out
    undocumented = [a.dest for a in cli.stage_parser(verb)._actions if not a.help]
    assert not undocumented


def test_version() -> None:
    assert landseg("--version").stdout == f"landseg {__version__}\n"


def test_no_verb_shows_the_usage_and_fails() -> None:
    done = landseg()
    assert done.returncode == 2
    assert "usage: landseg <verb>" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stage-dta"], "unknown verb 'stage-dta', did you mean 'stage-data'?"),
        (["frobnicate"], "unknown verb 'frobnicate', expected one of make-sample-data"),
        (["stage-data", "--sorce", "x", "--source", "x", "--storage-uri", "y"], "did you mean --source?"),
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

    vars(module).update(HELP="fails", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli, "_module", lambda verb: module)


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
