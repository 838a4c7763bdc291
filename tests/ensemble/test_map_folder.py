"""A local folder for maps: what cannot be written in the end is refused before anything is averaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from averages import average, published
from ensembles import open_dataset, stage_and_export

from landseg.stages.shared.map_folder import MapFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    return stage_and_export(tmp_path_factory.mktemp("data"), val=4, test=2)


def file_of_others(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")


def link_that_leads_nowhere(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(path.parents[2] / "elsewhere.png")


def file_in_place_of_the_folder(path: Path) -> None:
    path.parent.parent.mkdir()
    path.parent.write_bytes(b"mine")


@pytest.mark.parametrize("folder", ["val", "test-entropy"])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (file_of_others, "{path}: expected nothing where a map goes, found a file that landseg did not write"),
        (link_that_leads_nowhere, "{path}: expected nothing where a map goes"),
        (file_in_place_of_the_folder, "--png-dir: expected a folder that can be written, found {folder}: file exists"),
    ],
)
def test_what_is_in_the_way_is_found_before_anything_is_averaged(
    make: Callable[[Path], None],
    problem: str,
    folder: str,
    data: tuple[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reference, refs = data
    tile = open_dataset(reference, tmp_path).tiles(folder.partition("-")[0])[0]  # type: ignore[arg-type]
    path = tmp_path / "maps" / folder / f"{tile.id}.png"
    make(path)
    flags = ["--layers=entropy", f"--png-dir={tmp_path / 'maps'}"]
    capsys.readouterr()
    assert average(reference, refs, tmp_path, *flags) == 2
    line = capsys.readouterr().err
    assert problem.format(path=path, folder=path.parent) in line and line.count("\n") == 1
    assert not list(tmp_path.glob("runs/r/average-probs/*/parts"))
    assert not (tmp_path / "elsewhere.png").exists()
    assert average(reference, refs, tmp_path, "--layers=entropy", f"--png-dir={tmp_path / 'other'}") == 0


def test_maps_that_another_run_has_written_meanwhile_are_replaced(data: tuple[str, list[str]], tmp_path: Path) -> None:
    reference, refs = data
    assert average(reference, refs, tmp_path) == 0
    labels, dataset = published(tmp_path), open_dataset(reference, tmp_path)
    first, second = MapFolder("--png-dir", tmp_path / "maps"), MapFolder("--png-dir", tmp_path / "maps")
    for maps in (first, second):
        maps.clear()
        maps.check(dataset, ["test", "val"], [])
    for maps in (first, second):
        maps.write(labels, dataset, tmp_path)
    assert len(list((tmp_path / "maps").glob("*/*.png"))) == 6
