"""Whatever is reachable from a run that stays, stays; what prune does not understand stops it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from manifest_examples import dataset

from landseg.cli.main import main
from landseg.contracts.documents import sha256_hex
from landseg.stages.prune import find, remove

DAY_S = 86_400.0
OLD_S = time.time() - 100 * DAY_S


def write(path: Path, content: bytes, modified_s: float = OLD_S) -> str:
    """Write a file; returns its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified_s, modified_s))
    return sha256_hex(content)


def write_dataset(root: Path, identity: str, shards: list[str]) -> str:
    """A dataset with these shards, in one split; returns the checksum of its manifest."""
    document = json.loads(dataset().to_bytes())
    ((name, split), *_) = document["splits"].items()
    split["shards"] = [{**split["shards"][0], "path": f"../shards/{shard}.tar"} for shard in shards]
    document |= {"dataset_id": identity, "splits": {name: split}}
    for shard in shards:
        write(root / "datasets" / "shards" / f"{shard}.tar", b"shard")
    return write(root / "datasets" / identity / "manifest.json", json.dumps(document).encode())


def write_folder(root: Path, path: str, inputs: list[str], modified_s: float, *, finished: bool = True) -> str:
    """A stage's folder that was made from inputs; returns the checksum of its manifest."""
    folder = root / "runs" / path
    write(folder / "identity.json", json.dumps({"stage": path.split("/")[1], "inputs": inputs}).encode(), modified_s)
    write(folder / "parts" / "0", b"part", modified_s)
    return write(folder / "manifest.json", path.encode(), modified_s) if finished else sha256_hex(path.encode())


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Datasets with shards; runs, old or new, whose stages read results of any run, by checksum or by path."""
    shards = [f"{number:064x}" for number in range(4)]
    datasets = draw(st.lists(st.lists(st.sampled_from(shards), min_size=1, max_size=3, unique=True), max_size=4))
    runs = draw(st.lists(st.booleans(), min_size=1, max_size=4))  # whether each is old
    folders: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 8))):
        stage = draw(st.sampled_from(["train", "export-probs", "average-probs"]))
        run = draw(st.integers(0, len(runs) - 1))
        name = "" if stage == "average-probs" else f"{draw(st.sampled_from(['swin', 'resnest-2']))}/"
        folders.append(
            {
                "path": f"r{run}/{stage}/{name}{number:012x}",
                "run": run,
                "datasets": draw(st.lists(st.integers(0, len(datasets) - 1), max_size=2)) if datasets else [],
                "folders": draw(st.lists(st.integers(0, number - 1), max_size=3)) if number else [],
                "by_path": draw(st.booleans()),
                "finished": draw(st.booleans()),
            }
        )
    wanted = draw(st.lists(st.sampled_from([f"r{folder['run']}" for folder in folders]), max_size=2)) if folders else []
    return {"datasets": datasets, "runs": runs, "folders": folders, "wanted": wanted}


def build(root: Path, tree: dict[str, Any]) -> None:
    checksums = [write_dataset(root, f"{i:016x}", shards) for i, shards in enumerate(tree["datasets"])]
    results: list[str] = []
    for folder in tree["folders"]:
        inputs = [checksums[i] for i in folder["datasets"]]
        for i in folder["folders"]:
            inputs.append(f"s3://b/runs/{tree['folders'][i]['path']}/model.pth" if folder["by_path"] else results[i])
        inputs.append("f" * 64)  # a result always has an input, known here or not
        modified_s = OLD_S if tree["runs"][folder["run"]] else time.time()
        results.append(write_folder(root, folder["path"], inputs, modified_s, finished=folder["finished"]))


def reachable(tree: dict[str, Any]) -> tuple[set[str], set[int]]:
    """Paths of folders, and numbers of datasets, that the runs that stay are made of."""

    def goes(folder: dict[str, Any]) -> bool:
        name, last_s = f"r{folder['run']}", tree["runs"][folder["run"]]
        return bool(last_s) and (not tree["wanted"] or name in tree["wanted"])

    todo = [folder for folder in tree["folders"] if not goes(folder)]
    paths, datasets = set(), set()
    while todo:
        folder = todo.pop()
        if folder["path"] in paths:
            continue
        paths.add(folder["path"])
        datasets |= set(folder["datasets"])
        others = [tree["folders"][i] for i in folder["folders"]]
        todo += [other for other in others if folder["by_path"] or other["finished"]]
    return paths, datasets


@settings(max_examples=150)
@given(tree=trees())
def test_whatever_is_reachable_from_a_run_that_stays_stays(
    tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("store")
    build(root, tree)
    before = {path for path in root.rglob("*") if path.is_file()}
    paths, datasets = reachable(tree)
    remove(find(str(root), 30 * DAY_S, tree["wanted"]))
    after = {path for path in root.rglob("*") if path.is_file()}
    shards = {shard for i in datasets for shard in tree["datasets"][i]}
    for path in before:
        names = path.relative_to(root).parts
        needed = (
            "/".join(names[1:]).startswith(tuple(f"{path}/" for path in paths))
            or (names[0] == "datasets" and names[1] in {f"{i:016x}" for i in datasets})
            or (names[:2] == ("datasets", "shards") and path.stem in shards)
        )
        assert path in after or not needed, path
    # And it is no prune that removes nothing: folders that nothing needs are gone.
    left = {"/".join(path.relative_to(root / "runs").parts) for path in after if root / "runs" in path.parents}
    gone = [folder["path"] for folder in tree["folders"] if folder["path"] not in paths]
    assert not [path for path in left if path.startswith(tuple(f"{path}/" for path in gone))]
    shutil.rmtree(root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An old run and a new one on one dataset each, the new one's told below."""
    root = tmp_path / "store"
    first = write_dataset(root, "0" * 16, ["a" * 64])
    write_folder(root, "old/average-probs/000000000000", [first], OLD_S)
    return root


def rename_run(root: Path) -> None:
    """As an empty run id once did: no run's name in the path."""
    write_folder(root, "average-probs/000000000001", ["a" * 64], time.time())
    shutil.move(root / "runs/average-probs/000000000001", root / "runs/average-probs/x")
    shutil.move(root / "runs/average-probs/x", root / "runs/average-probs/000000000001")


def link_run(root: Path) -> None:
    write_folder(root.parent / "other", "linked/average-probs/000000000001", ["a" * 64], time.time())
    (root / "runs" / "linked").symlink_to(root.parent / "other" / "runs" / "linked")


def link_all_runs(root: Path) -> None:
    (root / "runs").rename(root.parent / "runs")
    (root / "runs").symlink_to(root.parent / "runs")


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a run without a name": (rename_run, "runs/average-probs/000000000001: expected a stage"),
    "a linked run": (link_run, "runs/linked: expected files and folders, found a link"),
    "linked runs": (link_all_runs, "runs: expected files and folders, found a link"),
    "a link below": (lambda root: (root / "runs/old/x").symlink_to("/etc/hostname"), "runs/old/x: expected files"),
    "a name that is none": (lambda root: write(root / "runs/a b/train/x", b""), "runs/a b: expected a run's name"),
    "another stage": (lambda root: write(root / "runs/r/evaluate/x/1", b""), "runs/r/evaluate: expected a stage"),
    "another model": (lambda root: write(root / "runs/r/train/A/0/1", b""), "runs/r/train/A: expected a model's name"),
    "another identity": (lambda root: write(root / "runs/r/train/a/b/1", b""), "runs/r/train/a/b: expected 12 hexa"),
    "no identity": (
        lambda root: write(root / "runs/r/train/a/000000000001/model.pth", b"", time.time()),
        "runs/r/train/a/000000000001: expected identity.json",
    ),
    "a damaged identity": (
        lambda root: write(root / "runs/r/train/a/000000000001/identity.json", b"{", time.time()),
        "runs/r/train/a/000000000001/identity.json: expected JSON",
    ),
    "another dataset": (lambda root: write(root / "datasets/mine/x", b""), "datasets/mine: expected the folder of a"),
    "a linked dataset": (
        lambda root: (root / "datasets" / ("1" * 16)).symlink_to(root / "datasets" / ("0" * 16)),
        "1111: expected files and folders, found a link",
    ),
    "a damaged dataset": (
        lambda root: write(root / "datasets" / ("1" * 16) / "manifest.json", b"{}"),
        "expected a document of kind 'landseg.dataset'",
    ),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_not_understood_stops_it(strange: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, says = STRANGE[strange]
    make(root)
    before = sorted(root.rglob("*"))
    assert main(["prune", f"--storage-uri={root}", "--older-than=0", "--run-id=old", "--delete"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error
    assert sorted(root.rglob("*")) == before


def test_single_files_of_nobody_stay(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strays = ["runs/readme.txt", "runs/old/notes.txt", "runs/old/average-probs/x", "datasets/x", "datasets/shards/x"]
    for stray in strays:
        write(root / stray, b"mine")
    assert main(["prune", f"--storage-uri={root}", "--delete"]) == 0
    assert "run old" in capsys.readouterr().out
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == sorted(strays)


def test_a_dataset_that_is_known_by_its_id_alone_is_in_use(root: Path) -> None:
    """Its manifest was written anew since: the checksum in the run's identity is of the earlier one."""
    write_folder(
        root, "new/average-probs/000000000001", ["b" * 64, f"{root}/datasets/{'0' * 16}/manifest.json"], time.time()
    )
    remove(find(str(root), 30 * DAY_S))
    assert (root / "datasets" / ("0" * 16) / "manifest.json").exists()
