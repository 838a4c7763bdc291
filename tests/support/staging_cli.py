"""`landseg stage-data` as tests call it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.dataset import DatasetManifest
from landseg.dataset.reader import StagedDataset
from landseg.dataset.staging import identifying
from landseg.raw.sources.source import FolderSource, fingerprint_of


@dataclass
class Run:
    """One run: its exit status, what it printed, and its outputs."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def checks(self) -> dict:
        return json.loads((self.folder / "checks.json").read_text())

    @property
    def error(self) -> str:
        return self.err.splitlines()[-1]

    @property
    def loaded(self) -> storage.Loaded[DatasetManifest]:
        return storage.read_document(DatasetManifest, str(self.folder / "dataset.json"))

    def dataset(self) -> StagedDataset:
        return StagedDataset.open(str(self.folder / "dataset.json"), self.folder / "cache")


class Staging:
    """Stages into one store, in this process unless a test asks for more."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store, self._tmp_path, self._capsys = tmp_path / "store", tmp_path, capsys
        self._runs = 0

    def __call__(self, source: Path | str, *options: str, store: Path | str | None = None) -> Run:
        self._runs += 1
        folder = self._tmp_path / f"out-{self._runs}"
        argv = ["stage-data", "--source", str(source), "--storage-uri", str(store or self.store)]
        argv += ["--output-dir", str(folder), "--num-workers", "1", *options]
        self._capsys.readouterr()
        status = main(argv)
        captured = self._capsys.readouterr()
        return Run(status, captured.out, captured.err, folder)


def settle(raw: Path) -> Path:
    """A raw dataset's folder, once no file is too young for its times to tell its versions apart."""
    deadline = time.monotonic() + 30
    while fingerprint_of(FolderSource(str(raw)).files()) is None:
        assert time.monotonic() < deadline, "the files stay too young for a fingerprint"
        time.sleep(0.01)
    return raw


def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the images that are read for their checksums from here on."""
    paths: list[str] = []
    original = identifying.identify_tile

    def noted(source, tile):
        paths.append(tile.image.path)
        return original(source, tile)

    monkeypatch.setattr(identifying, "identify_tile", noted)
    return paths


def tree(folder: Path) -> dict[str, bytes]:
    """All files of the datasets below a folder: without leftovers of killed writers, arguments and costs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and path.parent.name not in ("by-name", "costs")
        and path.name != "arguments.json"
    }
