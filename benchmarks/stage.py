"""stage-data against `rclone copy` of the same tree to the same endpoint: seconds, objects, memory, staging again.

5,000 labelled tiles of 256 px (LZW TIFFs, palette PNGs) in a folder, the embedded endpoint (`rclone serve s3`) on
loopback, plainly and behind a proxy that adds 20 ms to every request. rclone copies files as they are; stage-data
decodes and checks every one of them on the way. Both are whole commands, with their defaults; rclone with 32 transfers
is timed too. Objects in storage are counted, and the memory of the command with all its processes is watched
(proportional set size). Staging again is timed twice: nothing has changed, and every file has new times, so that all
of them are read and hashed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from benchmarks.netproxy import Faults, spawned
from landseg.sample.tiles import PALETTE, SampleOptions, dataset_description, draw_tile
from pipelines.local.embedded_s3 import EmbeddedS3

TILES, FEW, MANY = 5_000, 1_000, 10_000
SIZE_PX = 256
DRAWN = 24
LATENCY_S = 0.02
BUCKET = "bench"


def run(repeats: int = 3) -> dict[str, Any]:
    """Measure; medians of `repeats` where there is no added latency."""
    with tempfile.TemporaryDirectory(prefix="landseg-bench-") as folder:
        root = Path(folder)
        _draw(root / "raw-all")
        raw = {count: _subset(root, count) for count in (FEW, TILES, MANY)}
        with EmbeddedS3(root / "s3", buckets=[BUCKET]) as server:
            bench = _Bench(server)
            plain = bench.against_rclone(raw[TILES], server.endpoint, repeats)
            with spawned(server.endpoint, Faults(latency_s=LATENCY_S)) as slow:
                distant = bench.against_rclone(raw[TILES], slow, 1)
            memory = {}
            for count in (FEW, MANY):
                memory[count] = bench.stage(raw[count], server.endpoint).peak_mib
                bench.clear()
        size = sum(path.stat().st_size for path in raw[TILES].rglob("*") if path.is_file())
    return {
        "what": f"staging {TILES} labelled tiles of {SIZE_PX} px ({size / 1e6:.0f} MB) into S3; peer: rclone copy",
        "ours": plain["ours_s"],
        "peer": plain["peer_s"],
        "ratio": _ratio(plain["peer_s"], plain["ours_s"]),
        "unit": "s",
        "target": 1,
        "cpu_s_with_the_server": {"ours": plain["ours_cpu_s"], "peer": plain["peer_cpu_s"]},
        "peer_32_transfers_s": plain["peer_32_s"],
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[1], 1),
        "with_20_ms_per_request": {
            **{name: distant[name] for name in ("ours_s", "peer_s", "peer_32_s")},
            "ratio": _ratio(distant["peer_s"], distant["ours_s"]),
            "target": 5,
        },
        "again_s": plain["again_s"],
        "again_cpu_s": plain["again_cpu_s"],
        "again_ratio": _ratio(plain["ours_s"], plain["again_s"]),
        "again_ratio_target": 10,
        "again_all_files_read_s": plain["reread_s"],
        "again_all_files_read_ratio": _ratio(plain["ours_s"], plain["reread_s"]),
        "objects": plain["objects"],
        "peak_memory_mib": memory,
        "peak_memory_ratio": round(memory[MANY] / memory[FEW], 3),
        "peak_memory_ratio_target": 1.1,
    }


def _ratio(a: float, b: float) -> float:
    return round(a / b, 2)


class _Bench:
    """Commands against one server, each run below a prefix of its own: the server remembers what it served."""

    def __init__(self, server: EmbeddedS3) -> None:
        self._server = server
        self._runs = 0

    def against_rclone(self, raw: Path, endpoint: str, repeats: int) -> dict[str, Any]:
        """Medians of the commands in turn, and the objects they left."""
        costs: dict[str, list[Cost]] = {name: [] for name in ("ours", "peer", "peer_32", "again", "reread")}
        objects = {}
        for _ in range(repeats):
            costs["peer"].append(self._rclone(raw, endpoint))
            objects["peer"] = self.clear()
            costs["peer_32"].append(self._rclone(raw, endpoint, "--transfers", "32"))
            self.clear()
            costs["ours"].append(self.stage(raw, endpoint))
            costs["again"].append(self.stage(raw, endpoint))
            for path in raw.rglob("*"):
                path.touch()
            costs["reread"].append(self.stage(raw, endpoint))
            objects["ours"] = self.clear()
        medians: dict[str, Any] = {"objects": objects}
        for name, found in costs.items():
            medians[f"{name}_s"] = round(statistics.median(cost.seconds for cost in found), 2)
            medians[f"{name}_cpu_s"] = round(statistics.median(cost.cpu_s for cost in found), 2)
        return medians

    def stage(self, raw: Path, endpoint: str) -> Cost:
        """`landseg stage-data`."""
        command = [sys.executable, "-m", "landseg", "stage-data", "--source", str(raw)]
        command += ["--storage-uri", f"s3://{BUCKET}/{self._runs}"]
        return _watched(command, self._server, endpoint)

    def _rclone(self, raw: Path, endpoint: str, *options: str) -> Cost:
        """`rclone copy`."""
        rclone = str(Path(sysconfig.get_path("scripts")) / "rclone")
        remote = f":s3,provider=Rclone,endpoint='{endpoint}',env_auth=true:{BUCKET}/{self._runs}"
        return _watched([rclone, "copy", str(raw), remote, "--config", "", *options], self._server, endpoint)

    def clear(self) -> int:
        """Remove what the last run wrote; returns the number of objects."""
        folder = self._server.root / BUCKET / str(self._runs)
        count = sum(path.is_file() for path in folder.rglob("*"))
        shutil.rmtree(folder)
        self._runs += 1
        return count


class Cost(NamedTuple):
    """What a command took: seconds, CPU seconds with the server's, and the largest memory of its processes in MiB."""

    seconds: float
    cpu_s: float
    peak_mib: float


def _watched(command: list[str], server: EmbeddedS3, endpoint: str) -> Cost:
    """Run a command and watch all its processes."""
    assert server.pid is not None
    env = {**os.environ, **server.env, "AWS_ENDPOINT_URL": endpoint}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # landseg as people have it: compiled once, not at every start
    served_s = _cpu_s(_status(server.pid))
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    peak, used = [0.0], {}

    def watch() -> None:
        while process.poll() is None:
            memory = 0.0
            for pid, status in _session(process.pid):
                used[pid] = _cpu_s(status)
                memory += _memory_mib(pid)
            peak[0] = max(peak[0], memory)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{command[:3]} failed: {errors.decode()[-500:]}")
    cpu_s = sum(used.values()) + _cpu_s(_status(server.pid)) - served_s
    return Cost(seconds, cpu_s, round(peak[0], 1))


def _status(pid: int) -> list[str]:
    """`/proc/<pid>/stat` from the third field on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _session(session: int) -> Iterator[tuple[int, list[str]]]:
    """The processes of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = _status(int(folder.name))
        except OSError:
            continue  # it has ended
        if int(status[3]) == session:
            yield int(folder.name), status


def _cpu_s(status: list[str]) -> float:
    return (int(status[11]) + int(status[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int) -> float:
    """What a process has of its own, and its share of what several map."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0  # it has ended
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _draw(root: Path) -> None:
    """Many tiles from a few drawn ones, each moved round by its own distance."""
    options = SampleOptions(size_px=SIZE_PX)
    drawn = [draw_tile(options, "train", number) for number in range(DRAWN)]
    for folder in ("images", "labels"):
        (root / "train" / folder).mkdir(parents=True)
    (root / "dataset.yaml").write_text(dataset_description(options))
    palette = [channel for colour in PALETTE for channel in colour]
    for number in range(MANY):
        image, label = drawn[number % DRAWN]
        shift = number // DRAWN
        image, label = np.roll(image, (shift, 3 * shift), (0, 1)), np.roll(label, (shift, 3 * shift), (0, 1))
        path = root / "train" / "images" / f"{number:06d}.tif"
        tifffile.imwrite(path, image, photometric="rgb", compression="lzw", metadata=None)
        picture = Image.fromarray(label)
        picture.putpalette(palette)
        picture.save(root / "train" / "labels" / f"{number:06d}.png")


def _subset(root: Path, count: int) -> Path:
    """The first so many tiles, as hard links."""
    target = root / f"raw-{count}"
    for folder in ("images", "labels"):
        (target / "train" / folder).mkdir(parents=True)
        for path in sorted((root / "raw-all" / "train" / folder).iterdir())[:count]:
            (target / "train" / folder / path.name).hardlink_to(path)
    shutil.copy(root / "raw-all" / "dataset.yaml", target)
    return target
