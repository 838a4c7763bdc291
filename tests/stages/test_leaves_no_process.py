"""However a verb ends, and `python -m pipelines` with it, none of its processes outlives it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from marked_processes import MarkedProgram
from raw_tiles import random_image, write_image, write_raw

from landseg.cli.main import main
from landseg.dataset.reader import StagedDataset

NUM_TILES = 300
"""More than are worked through before a signal arrives."""


@dataclass(frozen=True)
class Case:
    """A way to call a program.

    Attributes:
        arguments: after the module; the first is the verb.
        is_under_way: whether what it is called for has begun.
        module: whose verb it is.
    """

    arguments: list[object]
    is_under_way: Callable[[MarkedProgram], object] = lambda program: False
    module: str = "landseg"


class Place:
    """What verbs work on; made when the first test asks for it."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "store"

    @cached_property
    def many(self) -> Path:
        return write_raw(self.root / "many", train=NUM_TILES, val=4, test=0)

    @cached_property
    def few(self) -> Path:
        return write_raw(self.root / "few", train=6, val=2, test=0)

    @cached_property
    def damaged(self) -> Path:
        raw = write_raw(self.root / "damaged", train=6, val=2, test=0)
        (raw / "train/images/t0005.tif").write_bytes(b"II*\0 and nothing more")
        return raw

    @cached_property
    def dataset(self) -> str:
        """Val has many tiles."""
        raw = write_raw(self.root / "val", train=1, val=NUM_TILES, test=0, size=64)
        return self._staged(raw, "whole")

    @cached_property
    def to_learn(self) -> str:
        return self._staged(write_raw(self.root / "learn", train=12, val=2, test=0, size=32), "to-learn")

    @cached_property
    def unreadable(self) -> str:
        """Val has a tile that is no image any more."""
        raw = write_raw(self.root / "val-damaged", train=2, val=16, test=0, size=32)
        reference = self._staged(raw, "unreadable")
        opened = StagedDataset.open(reference, self.root / "cache")
        tile = opened.tiles("val")[9]
        with opened.shard_path("val", tile.shard).open("r+b") as shard:
            shard.seek(tile.image[0] + 4)
            shard.write(b"\xff" * 4)
        return reference

    def _staged(self, raw: Path, name: str) -> str:
        folder = self.root / name
        places = ["--storage-uri", str(folder), "--output-dir", str(folder), "--num-workers", "1"]
        assert main(["stage-data", "--source", str(raw), *places]) == 0
        return str(folder / "dataset.json")

    @cached_property
    def model(self) -> str:
        from random_models import write_model  # it imports torch

        self.store.mkdir(exist_ok=True)
        return write_model(self.store, self.dataset)

    @cached_property
    def probs(self) -> str:
        arguments = ["--dataset", self.dataset, "--model", self.model, "--storage-uri", str(self.store), "--tta=none"]
        places = ["--run-id=p", "--splits=val", "--output-dir", str(self.root / "probs")]
        assert main(["export-probs", *arguments, *places]) == 0
        return str(self.root / "probs/probs.json")

    @cached_property
    def damaged_probs(self) -> str:
        arguments = ["--dataset", self.dataset, "--model", self.model, "--storage-uri", str(self.root / "lost")]
        places = ["--run-id=p", "--splits=val", "--tta=none", "--output-dir", str(self.root / "lost")]
        assert main(["export-probs", *arguments, *places]) == 0
        last = max((self.root / "lost").rglob("probs.zarr/**/c/*/0/0/0"))
        last.write_bytes(last.read_bytes()[:-40] + b"\0" * 40)
        return str(self.root / "lost/probs.json")


SUCCESS, ERROR = "success", "user error"
SIGNALS = {
    "SIGTERM": (signal.SIGTERM, False),
    "SIGTERM to all": (signal.SIGTERM, True),
    "Ctrl-C": (signal.SIGINT, True),
}
SIGNALS |= {"SIGKILL": (signal.SIGKILL, False)}
"""What is sent while it works, and whether to its whole process group."""


def make_sample_data(place: Place, out: Path, outcome: str) -> Case:
    if outcome == ERROR:
        write_image(out / "mine.tif", random_image(0))
    count = 8 if outcome == SUCCESS else NUM_TILES
    arguments = ["make-sample-data", out, f"--train={count}", "--val=0", "--test=0", "--size=64"]
    return Case(arguments, lambda program: len(program.processes()) > 2)


def stage_data(place: Place, out: Path, outcome: str) -> Case:
    source = {SUCCESS: place.few, ERROR: place.damaged}[outcome] if outcome not in SIGNALS else place.many
    arguments = ["stage-data", "--source", source, "--storage-uri", out, "--num-workers=2"]
    # The first process, multiprocessing's tracker and fork server, and what the latter has forked.
    return Case(arguments, lambda program: len(program.processes()) > 3)


def stage_data_with_attempts(place: Place, out: Path, outcome: str) -> Case:
    arguments = [*stage_data(place, out, outcome).arguments, "--attempts=2"]
    return Case(arguments, lambda program: len(program.processes()) > 4)


def train(place: Place, out: Path, outcome: str) -> Case:
    dataset = place.unreadable if outcome == ERROR else place.to_learn
    split = "val" if outcome == ERROR else "train"
    fixed = ["--name=swin", "--config=swin_tiny", "--run-id=r", "--gpus=0", "--num-workers=2", "--pretrained=none"]
    length = ["--batch-per-gpu=4", "--checkpoint-interval=1", f"--epochs={5000 if outcome in SIGNALS else 1}"]
    arguments = ["train", *fixed, *length, f"--train-splits={split}", "--dataset", dataset, "--storage-uri", out]
    return Case(arguments, lambda program: list(out.glob("runs/**/checkpoints/*.json")))


def export_probs(place: Place, out: Path, outcome: str) -> Case:
    dataset = place.unreadable if outcome == ERROR else place.dataset
    arguments = ["export-probs", "--dataset", dataset, "--model", place.model, "--splits=val", "--tta=d4"]
    arguments += ["--run-id=r", "--storage-uri", out]
    return Case(arguments, lambda program: list(out.glob("runs/**/arguments.json")))


def average_probs(place: Place, out: Path, outcome: str) -> Case:
    probs = place.damaged_probs if outcome == ERROR else place.probs
    arguments = ["average-probs", "--dataset", place.dataset, "--probs", probs, "--run-id=r", "--storage-uri", out]
    return Case(arguments, lambda program: list(out.glob("runs/**/arguments.json")))


def predict(place: Place, out: Path, outcome: str) -> Case:
    images = {SUCCESS: place.few, ERROR: place.damaged}[outcome] if outcome not in SIGNALS else place.many
    arguments = ["predict", images / "train/images", "--model", place.model, "--output-dir", out]
    return Case(arguments, lambda program: list(out.glob(".landseg/runs/**/arguments.json")))


def predict_staging(place: Place, out: Path, outcome: str) -> Case:
    return Case([*predict(place, out, outcome).arguments, "--num-workers=2"], forks)


def pipeline(place: Place, out: Path, outcome: str) -> Case:
    source = {SUCCESS: place.few, ERROR: place.damaged}[outcome] if outcome not in SIGNALS else place.many
    arguments = ["run", "stage-data", f"--root={out}", f"--param=source={source}", f"--param=storage_uri={out}/store"]
    return Case(arguments, forks, module="pipelines")


def demo(place: Place, out: Path, outcome: str) -> Case:
    if outcome == ERROR:
        assert main(["make-sample-data", str(out / "data")]) == 0
        (out / "data/train/images/100003.tif").write_bytes(b"II*\0 and nothing more")
    return Case(["demo", f"--root={out}"], forks, module="pipelines")


def demo_training(place: Place, out: Path, outcome: str) -> Case:
    runs = out / "s3/landseg/runs"
    return Case(["demo", f"--root={out}"], lambda program: list(runs.glob("**/arguments.json")), module="pipelines")


def demo_drawing(place: Place, out: Path, outcome: str) -> Case:
    return Case(["demo", f"--root={out}"], lambda program: list(out.glob("data/train/images/*")), module="pipelines")


def forks(program: MarkedProgram) -> bool:
    """Whether processes that check tiles have begun."""
    return sum("forkserver" in line for line in program.processes().values()) > 1


ALL = (SUCCESS, ERROR, *SIGNALS)
TABLE: dict[Callable[[Place, Path, str], Case], tuple[str, ...]] = {
    make_sample_data: ALL,
    stage_data: ALL,
    stage_data_with_attempts: ALL,
    train: ALL,
    export_probs: ALL,
    average_probs: ALL,
    predict: ALL,
    predict_staging: tuple(SIGNALS),
    # Killed, the runner leaves its step to itself.
    pipeline: (SUCCESS, ERROR, "SIGTERM", "SIGTERM to all", "Ctrl-C"),
    demo: (ERROR, "SIGTERM", "SIGTERM to all", "Ctrl-C"),
    demo_training: ("SIGTERM", "Ctrl-C"),
    demo_drawing: ("SIGTERM", "SIGTERM to all", "Ctrl-C"),
}
QUICK = {(make_sample_data, "SIGKILL"), (stage_data, SUCCESS), (stage_data, ERROR)}
QUICK |= {(train, SUCCESS), (train, ERROR), (train, "SIGTERM to all")}
"""What is not slow. Staging on SIGTERM: tests/dataset/test_kill_staging.py."""
STATUSES = {SUCCESS: 0, ERROR: 2, "SIGTERM": 143, "SIGTERM to all": 143, "Ctrl-C": 130, "SIGKILL": -9}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        pytest.param(
            call,
            outcome,
            id=f"{call.__name__}, {outcome}".replace("_", "-"),
            marks=[] if (call, outcome) in QUICK else pytest.mark.slow,
        )
        for call, outcomes in TABLE.items()
        for outcome in outcomes
    ],
)
def test_no_process_is_left(
    call: Callable[[Place, Path, str], Case], outcome: str, place: Place, tmp_path: Path
) -> None:
    case = call(place, tmp_path / "out", outcome)
    program = MarkedProgram(case.module, case.arguments)
    try:
        if outcome in SIGNALS:
            program.wait_until(lambda: case.is_under_way(program))
            number, to_group = SIGNALS[outcome]
            program.send(number, to_group=to_group)
    finally:
        status = program.end(limit_s=280, left_limit_s=30)
    assert status == STATUSES[outcome], program.printed
    if outcome not in SIGNALS:  # a process that is just starting may print one
        assert "Traceback" not in program.printed
