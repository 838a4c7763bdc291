"""The prepared check of a GPU, rehearsed on the CPU; what it says of steps that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.first_error import first_error
from benchmarks.gpu import __main__ as check
from benchmarks.gpu import table
from benchmarks.processes import session_of

TRACEBACKS = """\
starting
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    work()
AttributeError: 'int' object has no attribute 'type'

During handling of the above exception, another exception occurred:

Exception in thread Thread-1 (_pin_memory_loop):
EOFError
"""


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (TRACEBACKS, "AttributeError: 'int' object has no attribute 'type'"),
        (
            "x\nlandseg train: error: --gpus: expected 1 visible GPUs, found 0\nValueError: b",
            "--gpus: expected 1",
        ),
        ("____ test ____\nE   assert 1 == 2\nFAILED tests/a.py\n1 failed", "assert 1 == 2"),
        ("torch.OutOfMemoryError: CUDA out of memory.\n", "torch.OutOfMemoryError: CUDA"),
        ("/usr/bin/python3: No module named landseg\n", "/usr/bin/python3: No module named landseg"),
        ("nothing that looks like an error\nthe last line\n\n", "the last line"),
        ("", "no output"),
    ],
)
def test_the_first_error_of_an_output(output: str, expected: str) -> None:
    assert first_error(output).startswith(expected)


def test_steps_that_fail_or_hang_do_not_end_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\n"
        'case $3 in hangs) echo waiting; setsid sleep 600 & echo $! >"$7/child"; wait;; fails)'
        ' echo "ValueError: first"; exit 1;; esac\n'
        'echo "{}" > "$7/$3.json"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(check, "STEPS", {"hangs": 1.0, "fails": 30, "works": 30})
    assert check.main(["--device", "cpu", "--folder", str(tmp_path / "out")]) == 1
    found = json.loads((tmp_path / "out" / "check-gpu.json").read_text())
    assert {name: step["ok"] for name, step in found["steps"].items()} == {
        "hangs": False,
        "fails": False,
        "works": True,
    }
    child = int((tmp_path / "out" / "child").read_text())
    deadline = time.monotonic() + 60  # it has been killed, and ends when it is its turn
    while session_of(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "not finished after" in found["steps"]["hangs"]["error"]
    assert found["steps"]["fails"]["error"] == "ValueError: first"
    out = capsys.readouterr().out
    assert "**fails failed**: ValueError: first" in out
    assert (tmp_path / "out" / "check-gpu.md").read_text() in out


def test_a_table_without_figures_says_what_failed() -> None:
    text = table.markdown({"seconds": 1.0, "steps": {"versions": {"ok": False, "error": "no GPU"}}})
    assert "**versions failed**: no GPU" in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_rehearsal_runs_every_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--folder", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout
    found = json.loads((tmp_path / "check-gpu.json").read_text())
    assert list(found["steps"]) == list(check.STEPS)
    for row in ("step alone", "`landseg train`, images/s", "labels as in plain", "equal to the bit", "gloo"):
        assert row in done.stdout


def test_it_runs_with_the_python_that_is_given_else_venvs_else_any(tmp_path: Path) -> None:
    def python(*variables: str) -> str:
        makefile = Path(__file__).parents[2] / "Makefile"
        command = ["make", "-n", "-C", str(tmp_path), "-f", str(makefile), "--no-print-directory", "check-gpu"]
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS")}
        return subprocess.run([*command, *variables], stdout=subprocess.PIPE, text=True, env=environment).stdout

    program = tmp_path / ".venv/bin/python"
    assert python().startswith("python3 -m benchmarks.gpu ")
    program.parent.mkdir(parents=True)
    program.touch()
    assert python().startswith(".venv/bin/python -m benchmarks.gpu ")
    assert python("PYTHON=/opt/python").startswith("/opt/python -m benchmarks.gpu ")
