"""Benchmarks that cannot begin say so at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.turns import Trainee


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["train", "--only", "speed"], "train --only: expected one of swin, resnest, found 'speed'"),
        (["export", "--only", "swin"], "export --only: expected speed, found 'swin'"),
        (["scale", "--only", "many"], "scale --only: expected a number of tiles, found 'many'"),
        (["stage", "--only", "lzw"], "stage takes no --only"),
        (["scale", "--repeats", "2"], "scale takes no --repeats"),
    ],
)
def test_a_case_that_there_is_not(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_training_process_that_ends_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the training process did not begin: .*No module named no_such_module"):
        Trainee(["no_such_module"], tmp_path)
