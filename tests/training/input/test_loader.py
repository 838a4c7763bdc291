"""Loader processes end when training does, whatever holds on to the iterator."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import stage

from landseg.dataset.reader import StagedDataset
from landseg.training.input import loader
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import RECIPE_STEPS

SOON_S = 30
"""Many times what the end takes, on a machine that others use too; without limits of its own it would take forever."""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileBatches:
    folder = tmp_path_factory.mktemp("data")
    dataset = StagedDataset.open(stage(folder), folder / "cache")
    pipeline = build_pipeline(RECIPE_STEPS, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return TileBatches(dataset, ["train"], pipeline, 0)


def children() -> set[int]:
    """Processes that this one has started and that have not ended."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pin-memory thread where there is no GPU: it hands batches on as they are."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *args: torch.device("cpu"))
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", lambda data, device=None: data)


def begin(tiles: TileBatches, *, pin_memory: bool) -> Iterator[Any]:
    order = BatchOrder(len(tiles), 2, 1, 0, 0)
    return loader.training_batches(tiles, order, 0, 1000, num_workers=2, pin_memory=pin_memory)


def end(batches: Any) -> float:
    start = time.monotonic()
    batches.close()
    return time.monotonic() - start


@pytest.mark.parametrize("pin_memory", [False, True])
def test_they_end_soon_though_a_cycle_holds_the_iterator(tiles: TileBatches, pin_memory: bool, pinned: None) -> None:
    before = children()
    batches = begin(tiles, pin_memory=pin_memory)
    next(batches)
    started = children() - before
    assert len(started) >= 2
    held: list[Any] = [batches]
    held.append(held)
    assert end(batches) < SOON_S
    assert not started & children()


def test_one_that_does_not_stop_is_killed(tiles: TileBatches, pinned: None) -> None:
    before = children()
    batches = begin(tiles, pin_memory=True)
    next(batches)
    started = children() - before
    for pid in started:
        os.kill(pid, signal.SIGSTOP)
    assert end(batches) < SOON_S
    assert not started & children()


def test_they_outlive_a_signal_to_the_process_group(tiles: TileBatches) -> None:
    before = children()
    batches = begin(tiles, pin_memory=False)
    next(batches)
    for pid in children() - before:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    for _ in range(12):  # more than are prefetched
        next(batches)
    end(batches)


def test_they_outlive_a_signal_while_they_start(tiles: TileBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between torch's handler of SIGTERM, which ends them, and the moment from which they ignore it."""
    before, set_num_threads = children(), torch.set_num_threads

    def slowly(number: int) -> None:
        time.sleep(0.5)
        set_num_threads(number)

    def signal_them() -> None:
        while len(started := children() - before) < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        for pid in started:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)

    monkeypatch.setattr(torch, "set_num_threads", slowly)
    batches = begin(tiles, pin_memory=False)
    thread = threading.Thread(target=signal_them)
    thread.start()
    for _ in range(12):
        next(batches)
    thread.join()
    end(batches)


def test_an_interpreter_that_ends_leaves_none(tmp_path: Path) -> None:
    """As `landseg train` ends: the iterator is closed, though something still refers to it."""
    dataset = stage(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from landseg.dataset.reader import StagedDataset\n"
        "from landseg.training.input.batches import BatchOrder, TileBatches\n"
        "from landseg.training.input.loader import training_batches\n"
        "from landseg.training.input.compiling import build_pipeline\n"
        "from landseg.training.input.config_pipeline import RECIPE_STEPS\n"
        "pipeline = build_pipeline(RECIPE_STEPS, (0.0,) * 3, (1.0,) * 3)\n"
        "tiles = TileBatches(StagedDataset.open(sys.argv[1], Path(sys.argv[2])), ['train'], pipeline, 0)\n"
        "order = BatchOrder(len(tiles), 2, 1, 0, 0)\n"
        "batches = training_batches(tiles, order, 0, 99, num_workers=2, pin_memory=False)\n"
        "next(batches); sys.modules['held'] = batches; batches.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, dataset, str(tmp_path / "cache")], timeout=240, start_new_session=True
    )
    assert done.returncode == 0
