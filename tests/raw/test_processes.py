"""How many CPUs and how much memory there are: a container's limits count, not the machine's size."""

from __future__ import annotations

import io
import os

import pytest

from landseg.raw import processes

MACHINE_BYTES = 64 << 30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine of 16 CPUs and 64 GiB; its files of control groups, to be filled."""
    files: dict[str, str] = {}

    def opened(path: str) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(processes, "open", opened, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else MACHINE_BYTES // 4096)
    return files


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [
        (None, 16),
        ("max 100000\n", 16),
        ("400000 100000\n", 4),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("6400000 100000\n", 16),
        ("unreadable", 16),
    ],
)
def test_cpus(machine: dict[str, str], limit: str | None, cpus: int) -> None:
    if limit is not None:
        machine["/sys/fs/cgroup/cpu.max"] = limit
    assert processes.num_cpus() == cpus


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, MACHINE_BYTES), ("max\n", MACHINE_BYTES), (f"{8 << 30}\n", 8 << 30), (f"{1 << 60}\n", MACHINE_BYTES)],
)
def test_memory(machine: dict[str, str], limit: str | None, expected: int) -> None:
    if limit is not None:
        machine["/sys/fs/cgroup/memory.max"] = limit
    assert processes.memory_bytes() == expected


@pytest.mark.parametrize(("quota", "cpus"), [("-1\n", 16), ("400000\n", 4), ("50000\n", 1)])
def test_limits_by_version_1_of_control_groups(machine: dict[str, str], quota: str, cpus: int) -> None:
    machine["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = quota
    machine["/sys/fs/cgroup/cpu/cpu.cfs_period_us"] = "100000\n"
    machine["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = f"{8 << 30}\n" if cpus < 16 else "9223372036854771712\n"
    assert processes.num_cpus() == cpus
    assert processes.memory_bytes() == (8 << 30 if cpus < 16 else MACHINE_BYTES)
