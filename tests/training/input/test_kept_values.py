"""Values of tiles are kept as they were written or not at all, whoever writes, is killed, or fills the volume."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from landseg.training.input.kept_values import KeptValues

SIZES = np.array([300_000, 5, 70_000, 4096, 1, 250_000])
PLENTY = 1 << 30


@pytest.fixture(autouse=True)
def seen_by_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged goes to caplog, which a verb that has run before turns off."""
    monkeypatch.setattr(logging.getLogger("landseg"), "propagate", True)


def values_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SIZES[number], np.uint8)


def write(kept: KeptValues, number: int) -> None:
    values = values_of(number)
    kept.write(number, [values[: len(values) // 3], values[len(values) // 3 :].reshape(1, -1)])


def there(kept: KeptValues) -> set[int]:
    """The tiles that are there, all of which have their own values."""
    found = set()
    for number in range(len(SIZES)):
        values = kept.read(number)
        if values is not None:
            assert np.array_equal(values, values_of(number))
            found.add(number)
    return found


def forked(work: Callable[[], None]) -> int:
    """Begin work in a process of its own, as loader processes are begun."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def wait(*pids: int) -> None:
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_processes_share_them_though_the_file_has_no_name_any_more(tmp_path: Path) -> None:
    kept, other = (KeptValues(tmp_path / "kept", SIZES, PLENTY) for _ in range(2))
    (tmp_path / "kept").unlink()
    assert there(kept) == there(other) == set()
    shares = [(kept, (0, 1, 2)), (other, (2, 3, 5))]  # both write 2

    def work(own: KeptValues, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            write(own, number)

    wait(*(forked(lambda share=share: work(*share)) for share in shares))
    assert there(kept) == there(other) == {0, 1, 2, 3, 5}


@pytest.mark.parametrize(("limit", "expected"), [(0, 0), (299_999, 0), (300_005, 2), (374_000, 3), (PLENTY, 6)])
def test_the_first_tiles_up_to_the_limit_are_kept(limit: int, expected: int, tmp_path: Path) -> None:
    kept = KeptValues(tmp_path / "kept", SIZES, limit)
    for number in range(len(SIZES)):
        write(kept, number)
    assert there(kept) == set(range(expected))
    assert (kept.num_tiles, kept.size_bytes) == (expected, SIZES[:expected].sum())
    assert (tmp_path / "kept").stat().st_size <= limit + 4096


def test_what_a_killed_process_was_writing_is_not_there(tmp_path: Path) -> None:
    """Killed while it writes any of the tiles, or in between."""
    rng = random.Random(0)
    for attempt in range(30):
        kept = KeptValues(tmp_path / str(attempt), SIZES, PLENTY)

        def work(own: KeptValues = kept) -> None:
            for number in range(len(SIZES)):
                write(own, number)

        pid = forked(work)
        begun = attempt % len(SIZES)
        while begun and kept.read(begun - 1) is None:
            time.sleep(0)
        time.sleep(rng.uniform(0, 0.001))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert there(kept) >= set(range(begun))
        work()  # the lock went with it
        assert there(kept) == set(range(len(SIZES)))
        kept.close()


def test_a_write_that_fails_half_way_ends_keeping(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = KeptValues(tmp_path / "kept", SIZES, PLENTY)
    write(kept, 1)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        write(kept, 0)
        assert there(kept) == set()

    wait(forked(work))
    assert there(kept) == set()
    assert (tmp_path / "kept").stat().st_size == 0
    write(kept, 1)
    assert there(kept) == set(), "nobody writes any more"
    assert not caplog.text, "the process that failed has said so"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of its own, which can be full."""
    folder = tmp_path / "volume"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a volume")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # the files are still open


@pytest.mark.parametrize("rest", [200_000, 0])
def test_a_volume_that_others_fill_has_its_room_back_and_one_line_says_so(
    rest: int, volume: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, other = (KeptValues(volume / "kept", SIZES, PLENTY) for _ in range(2))
    (volume / "kept").unlink()
    write(kept, 0)
    room = os.statvfs(volume)
    (volume / "checkpoint").write_bytes(b"x" * (room.f_bavail * room.f_frsize - rest))
    with caplog.at_level(logging.INFO):
        for number in (2, 3, 5):
            write(kept, number)
            write(other, number)
    assert there(kept) == there(other) == set()
    assert caplog.messages == [
        "decoded tiles are no longer kept on local disk, what they took there is free again: no space left on device"
    ]
    assert os.statvfs(volume).f_bavail * room.f_frsize > SIZES[0]


def test_no_more_is_planned_than_the_volume_has_room_for(volume: Path) -> None:
    sizes = np.full(100, 65536)
    kept = KeptValues(volume / "kept", sizes, PLENTY)
    assert 20 < kept.num_tiles <= 28  # of 2 MiB, an eighth is left
    for number in range(len(sizes)):
        kept.write(number, [np.ones(65536, np.uint8)])
    assert kept.read(kept.num_tiles - 1) is not None


def test_a_volume_without_room_for_the_beginning_is_an_error(volume: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        KeptValues(volume / "kept", np.ones(4 << 20, np.int64), PLENTY)
