"""stdout and stderr that are closed, or that lack letters: `python -m pipelines` works all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.images import ROOT


def compile_to(folder: Path, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    """Compile, with variables before and redirections after the command, as a shell takes them."""
    script = f'{before} "$0" -m pipelines compile --output-dir "$1" {after}'
    command = ["bash", "-c", script, sys.executable, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_status(redirected: str, tmp_path: Path) -> None:
    done = compile_to(tmp_path, after=redirected)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "predict.yaml").read_text().startswith("# PIPELINE DEFINITION")


def test_letters_that_the_locale_lacks_are_escaped(tmp_path: Path) -> None:
    done = compile_to(tmp_path / "水", before="PYTHONIOENCODING=ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/\\u6c34/predict.yaml\n" in done.stdout
