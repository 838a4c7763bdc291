"""The code that is part of a stage's identity."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import landseg
from landseg.stages.shared.code import ROOMS, code_digest

PACKAGE = Path(landseg.__file__).parent
NEUTRAL = {"cli", "contracts", "storage", "stages", "raw"}
"""Rooms that decide no result, or (raw) that decide it when the data is staged."""


def imported(module: str, seen: set[str]) -> set[str]:
    """All modules of landseg that a module imports, directly or not, at the top or inside a function."""
    path = PACKAGE.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module in seen or not path.exists():
        return seen
    seen.add(module)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("landseg"):
            for name in (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)):
                imported(name, seen)
    return seen


@pytest.mark.parametrize("stage", ROOMS)
def test_every_room_that_a_stage_computes_with_counts(stage: str) -> None:
    modules = imported(f"landseg.stages.{stage.replace('-', '_')}", set())
    reached = {name.split(".")[1] for name in modules if name.count(".") > 0} - NEUTRAL
    listed = {room.split("/")[0] for room in ROOMS[stage]} - {"raw", "configs"}
    assert reached - {"report"} == listed - {"report"}
    assert all((PACKAGE / room).is_dir() for room in ROOMS[stage])


def test_other_code_is_another_identity_and_a_report_of_a_training_is_not(tmp_path: Path) -> None:
    package = tmp_path / "landseg"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = {stage: code_digest(stage, package) for stage in ROOMS}
    assert before == {stage: code_digest(stage) for stage in ROOMS}
    with (package / "training" / "update.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    with (package / "report" / "page.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    after = {stage: code_digest(stage, package) for stage in ROOMS}
    assert [stage for stage in ROOMS if after[stage] != before[stage]] == ["train", "average-probs"]
    assert code_digest("stage-data") == ""


def test_bytecode_that_another_process_is_writing_does_not_count(tmp_path: Path) -> None:
    package = tmp_path / "landseg"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = {stage: code_digest(stage, package) for stage in ROOMS}
    for room in ("dataset", "training"):
        (package / room / "__pycache__").mkdir()
        for name in ("reader.cpython-311.pyc", "reader.cpython-311.pyc.140213"):  # the latter is renamed in a moment
            (package / room / "__pycache__" / name).write_bytes(b"half of it")
    assert {stage: code_digest(stage, package) for stage in ROOMS} == before
