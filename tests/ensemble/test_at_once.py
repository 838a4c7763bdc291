"""Equal averagings at once, and averagings whose results were lost: every reference fits, everything is made again."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from ensembles import stage_and_export

from landseg.cli.main import main
from landseg.ensemble.maps.archives import ArchivePlace, Archives


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    return stage_and_export(tmp_path_factory.mktemp("data"), val=8, test=2)


def average(data: tuple[str, list[str]], root: Path, out: str, *flags: str) -> int:
    reference, probs = data
    given = [*(f"--probs={uri}" for uri in probs), f"--storage-uri={root}/store", "--run-id=r", *flags]
    return main(["average-probs", f"--dataset={reference}", *given, f"--output-dir={root}/{out}"])


def averages_at_once(data: tuple[str, list[str]], root: Path, flags: list[list[str]]) -> None:
    """One process for each list of flags, begun together; each leaves its reference in a folder of its own."""
    context = multiprocessing.get_context("fork")

    def work(number: int) -> None:
        os._exit(average(data, root, f"out{number}", *flags[number]))

    processes = [context.Process(target=work, args=(number,)) for number in range(len(flags))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(flags)


def check_rounds(data: tuple[str, list[str]], root: Path, rounds: int) -> None:
    for number in range(rounds):
        folder = root / str(number)
        shares = [["--worker=1/2"], ["--worker=2/2"]] if number % 3 == 2 else [[]] * 3
        averages_at_once(data, folder, shares)
        references = list(folder.glob("out*/labels.json"))
        assert len(references) == 3 or (number % 3 == 2 and references)
        assert len({reference.read_bytes() for reference in references}) == 1
        for reference in references:
            assert main(["verify", str(reference)]) == 0


def test_every_reference_fits_the_manifest_that_stands(data: tuple[str, list[str]], tmp_path: Path) -> None:
    check_rounds(data, tmp_path, 6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_rounds_at_once(data: tuple[str, list[str]], tmp_path: Path) -> None:
    check_rounds(data, tmp_path, 100)


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_whatever_is_lost_is_made_again(
    damage: str, data: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert average(data, tmp_path, "out") == 0
    (folder,) = (tmp_path / "store/runs/r/average-probs").iterdir()
    found = [*folder.iterdir(), *(folder / "maps").iterdir()]
    lost = [path for path in found if path.is_file() and not path.name.endswith(("identity.json", "s.json"))]
    assert {path.name for path in lost} >= {"labels-val-000000.tar", "summary.json", "ranking.csv", "report.html"}
    for path in lost:
        before = path.read_bytes()
        if damage == "missing" or path.name == "manifest.json":
            path.unlink()
        else:
            path.write_bytes(before[:-7])
        capsys.readouterr()
        assert average(data, tmp_path, "again") == 0
        if path.name != "manifest.json":
            assert re.search(rf"{path.name}: expected \d+ bytes, found .* made again", capsys.readouterr().err)
        assert path.read_bytes() == before  # so the references that are out already fit as well
        assert main(["verify", str(tmp_path / "out" / "labels.json")]) == 0
    assert average(data, tmp_path, "again") == 0
    assert "finished before" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["val", "test"])
@pytest.mark.parametrize("slow", ["val", "test"])
def test_a_lost_archive_is_found_in_whatever_order_archives_are_looked_at(
    lost: str, slow: str, data: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert average(data, tmp_path, "out") == 0
    (folder,) = (tmp_path / "store/runs/r/average-probs").iterdir()
    archive = folder / "maps" / f"labels-{lost}-000000.tar"
    archive.unlink()
    is_finished = Archives.is_finished

    def late(archives: Archives, place: ArchivePlace, parts: Mapping[str, int]) -> bool:
        time.sleep(0.1 * (place[0] == slow))
        return is_finished(archives, place, parts)

    monkeypatch.setattr(Archives, "is_finished", late)
    assert average(data, tmp_path, "again") == 0
    assert archive.exists()


def test_a_stage_with_nothing_to_say_leaves_nothing_of_an_earlier_result(
    data: tuple[str, list[str]], tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    assert average(data, tmp_path, "out", f"--png-dir={maps}", "--layers=entropy") == 0
    assert list(maps.rglob("*.png")) and (tmp_path / "out" / "labels.json").exists()
    own = [maps / "val" / "mine.png", tmp_path / "out" / "notes.txt"]
    for path in own:
        path.write_bytes(b"mine")
    assert average(data, tmp_path, "out", f"--png-dir={maps}", "--weights=2,1", "--worker=1/2") == 0
    assert [path for path in (*maps.rglob("*"), *(tmp_path / "out").rglob("*")) if path.is_file()] == own
    assert average(data, tmp_path, "out", f"--png-dir={maps}", "--weights=2,1", "--worker=2/2") == 0
    assert (tmp_path / "out" / "labels.json").exists()
    assert not list(maps.glob("val-entropy/*")) and len(list(maps.glob("val/*.png"))) == 9


def test_the_list_of_maps_is_no_permission_to_remove_other_files(
    data: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "precious.png").write_bytes(b"mine")
    for listed in ('["../precious.png"]', f'["{tmp_path}/precious.png"]', '["val/x.txt"]', "{", "3"):
        (tmp_path / "maps" / "maps.json").write_text(listed)
        assert average(data, tmp_path, "out", f"--png-dir={tmp_path}/maps") == 2
        assert "maps.json: expected" in capsys.readouterr().err
    assert (tmp_path / "precious.png").exists()


def test_a_comma_in_a_path(data: tuple[str, list[str]], tmp_path: Path) -> None:
    reference, probs = data
    (tmp_path / "a,b").mkdir()
    for number, uri in enumerate(probs):
        (tmp_path / "a,b" / str(number)).symlink_to(Path(uri).parent)
    odd = [f"{tmp_path}/a,b/{number}/manifest.json" for number in range(2)]
    assert average((reference, odd), tmp_path, "one") == 0
    assert average((reference, [",".join(probs)]), tmp_path, "other") == 0
    assert (tmp_path / "one/labels.json").read_bytes() == (tmp_path / "other/labels.json").read_bytes()
