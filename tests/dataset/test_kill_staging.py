"""SIGKILL at any moment, then another run: the result is that of a run that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from marked_processes import MarkedProgram
from raw_tiles import random_image, random_label, write_image, write_label, write_raw
from staging_cli import tree


def command(raw: Path, store: Path, scratch: Path) -> list[str]:
    options = ["--shard-bytes", "60000", "--num-workers", "2", "--scratch", str(scratch)]
    return [sys.executable, "-m", "landseg", "stage-data", "--source", str(raw), "--storage-uri", str(store), *options]


def left_running(scratch: Path) -> list[int]:
    """Processes that work below a folder."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(scratch).encode() in status.read_bytes():
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("grown", "kills"), [(False, 20), (True, 8)], ids=["first", "grown"])
def test_killed_at_random_moments(tmp_path, grown, kills):
    raw = write_raw(tmp_path / "raw", train=400, val=40, test=20)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    if grown:
        subprocess.run(command(raw, earlier, tmp_path), check=True, capture_output=True)
        write_image(raw / "train/images/t0100a.tif", random_image(7))
        write_label(raw / "train/labels/t0100a.png", random_label(7))
    reference = tmp_path / "reference"
    shutil.copytree(earlier, reference)
    start = time.monotonic()
    subprocess.run(command(raw, reference, tmp_path), check=True, capture_output=True)
    duration = time.monotonic() - start
    expected = tree(reference)
    moments = random.Random(0)
    killed = attempt = 0
    while killed < kills:
        attempt += 1
        assert attempt <= 3 * kills, "it mostly ends before it is killed"
        store, scratch = tmp_path / f"store-{attempt}", tmp_path / f"scratch-{attempt}"
        shutil.copytree(earlier, store)
        start = time.monotonic()
        process = subprocess.Popen(
            command(raw, store, scratch), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=duration * moments.uniform(0.05, 0.9))
            duration = min(duration, time.monotonic() - start)  # the machine was busier when it was measured
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        published = list(store.glob("datasets/*/manifest.json"))
        assert all(path.read_bytes() in expected.values() for path in published)
        subprocess.run(command(raw, store, scratch), check=True, capture_output=True)
        assert tree(store) == expected
        deadline = time.monotonic() + 60
        while left_running(scratch) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left_running(scratch)


def test_sigterm_ends_it_in_order(tmp_path):
    raw = write_raw(tmp_path / "raw", train=300, val=4, test=0)
    store, scratch = tmp_path / "store", tmp_path / "scratch"
    program = MarkedProgram("landseg", command(raw, store, scratch)[3:])
    program.wait_until(lambda: list(scratch.glob("landseg-*")))
    program.send(signal.SIGTERM, to_group=False)
    assert program.end(limit_s=120, left_limit_s=30) == 128 + signal.SIGTERM, program.printed
    # Where the signal arrives while processes start, multiprocessing may add a warning, or leave an empty folder.
    assert "landseg stage-data: terminated" in program.printed.splitlines()
    assert "Traceback" not in program.printed
    assert not list(scratch.glob("landseg-*"))
    assert not list(store.glob("datasets/*/manifest.json"))
