"""What grows with the number of tiles: CPU seconds, peak memory, requests and bytes of every verb that needs no torch.

Tiny labelled tiles (16 px, uncompressed, so that hardly anything but landseg's own work is left) in the embedded
endpoint, which is reached through a proxy that counts. Each step is a whole command in a process of its own. The
difference between two sizes is what one more tile costs; the target is linear CPU time, and at most 150 bytes of memory
a tile. `export` is a stand-in without a network. Two models are exported, the second by several workers, who run one
after the other, and averaged, by one worker and by several; of more than 10,000 tiles one worker does everything:
several would take hours. `--only N` takes one size. Each step is told on stderr when it has ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from benchmarks import machine
from benchmarks.netproxy import FaultProxy
from benchmarks.processes import descendants, peak_bytes
from pipelines.local.embedded_s3 import EmbeddedS3

SIZES = (1_000, 10_000)
SIZE_PX = 16
SHARD_BYTES = 1_000_000
WORKERS = 8
AVERAGE_WORKERS = (2, 4, 8)
MODELS = ("resnest", "swin")
MEMORY_TARGET_BYTES = 150


class Cost(NamedTuple):
    """What a step took, over all its processes; of the memory, what the largest of them had."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    requests: int
    downloaded: int
    most_downloaded: int
    """By one of the processes that share the step."""


def unknown_case(only: str) -> str:
    """What `--only` should be, in an error line; empty where it is that."""
    return "" if only.isdecimal() and int(only) else "expected a number of tiles"


def run(only: str = "") -> dict[str, Any]:
    """Measure."""
    sizes = (int(only),) if only else SIZES
    costs = {count: _measure(count) for count in sizes}
    return {
        "what": f"every verb without torch on {' and '.join(map(str, sizes))} tiles of {SIZE_PX} px, {WORKERS} workers",
        "steps": {count: {name: _shown(cost, count) for name, cost in found.items()} for count, found in costs.items()},
        "per_further_tile": _growth(costs) if len(sizes) > 1 else None,
        "memory_target_bytes": MEMORY_TARGET_BYTES,
        "machine": machine.describe(),
    }


def _shown(cost: Cost, count: int) -> dict[str, float]:
    return {
        "seconds": round(cost.seconds, 2),
        "cpu_s": round(cost.cpu_s, 2),
        "peak_mib": round(cost.peak_bytes / 2**20, 1),
        "requests": cost.requests,
        "downloaded_bytes_per_tile": round(cost.downloaded / count, 1),
        "most_downloaded_bytes_by_a_worker": cost.most_downloaded,
    }


def _growth(costs: dict[int, dict[str, Cost]]) -> dict[str, dict[str, float]]:
    few, many = min(costs), max(costs)
    more = many - few
    return {
        name: {
            "cpu_ms": round(1e3 * (cost.cpu_s - costs[few][name].cpu_s) / more, 3),
            "memory_bytes": round((cost.peak_bytes - costs[few][name].peak_bytes) / more, 1),
            "requests": round((cost.requests - costs[few][name].requests) / more, 4),
        }
        for name, cost in costs[many].items()
    }


def _measure(count: int) -> dict[str, Cost]:
    with tempfile.TemporaryDirectory(prefix="landseg-bench-") as folder:
        root = Path(folder)
        _draw(root / "raw", count)
        with EmbeddedS3(root / "s3", buckets=["bench"]) as server, FaultProxy(server.endpoint) as proxy:
            return _Bench(root, server, proxy).steps(count)


class _Bench:
    """Commands against one server, each watched."""

    def __init__(self, root: Path, server: EmbeddedS3, proxy: FaultProxy) -> None:
        self._root, self._proxy = root, proxy
        self._env = {**os.environ, **server.env, "AWS_ENDPOINT_URL": proxy.endpoint, "OMP_NUM_THREADS": "1"}

    def steps(self, count: int) -> dict[str, Cost]:
        """Every step, in the order of a project's life."""
        raw, out = self._root / "raw", self._root / "out"
        stage = ["stage-data", "--source", str(raw), "--shard-bytes", str(SHARD_BYTES), "--output-dir", str(out)]
        dataset = ["--dataset", str(out / "dataset.json")]
        costs = {"stage": self._verbs(stage)}
        costs["stage again"] = self._verbs(stage)
        costs["plan-export"] = self._verbs(["plan-export", *dataset, "--splits", "val", "--workers", str(WORKERS)])
        uris = [f"s3://bench/all/runs/scale/export-probs/{model}/0123456789ab" for model in MODELS]
        exports = {"export by one": 1, "export by several": WORKERS}
        if count > max(SIZES):
            exports = {"export by one": 1, "export of the second model": 1}
        for (name, workers), uri, model in zip(exports.items(), uris, MODELS, strict=True):
            command = [sys.executable, "-m", "benchmarks.stand_in_export", str(out / "dataset.json"), uri, model]
            costs[name] = self._watch([[*command, share] for share in _shares(workers)], scratch=True)
        probs = [flag for uri in uris for flag in ("--probs", f"{uri}/manifest.json")]
        average = ["average-probs", *dataset, *probs]
        costs["average by one"] = self._verbs([*average, "--run-id", "one"])
        for workers in AVERAGE_WORKERS if count <= max(SIZES) else ():
            several = [[*average, "--run-id", f"by{workers}", "--worker", share] for share in _shares(workers)]
            costs[f"average by {workers}"] = self._verbs(*several)
        costs["average again"] = self._verbs([*average, "--run-id", "one"])
        costs["status"] = self._verbs(["status", "--run-id", "one"])
        costs["verify"] = self._verbs(["verify", "s3://bench/all/runs"], storage=False)
        changed = sorted((raw / "val" / "images").iterdir())[:: max(1, count // max(1, count // 100))][: count // 100]
        for path in changed:
            data = bytearray(path.read_bytes())
            data[-1] ^= 255
            path.write_bytes(data)
        costs["stage with 1 % changed"] = self._verbs(stage)
        costs["prune"] = self._verbs(["prune", "--older-than", "0", "--delete"])
        return costs

    def _verbs(self, *commands: Sequence[str], storage: bool = True) -> Cost:
        where = ["--storage-uri", "s3://bench/all"] if storage else []
        return self._watch([[sys.executable, "-m", "landseg", *command, *where] for command in commands])

    def _watch(self, commands: Sequence[Sequence[str]], *, scratch: bool = False) -> Cost:
        """Run commands one after another."""
        before = dict(self._proxy.counts)
        start = time.perf_counter()
        cpu_s, peak, most = 0.0, 0, 0
        for command in commands:
            earlier = self._proxy.counts["bytes downloaded"]
            with tempfile.TemporaryDirectory(dir=self._root) as folder:
                process = subprocess.Popen(
                    [*command, *([folder] if scratch else [])],
                    env=self._env,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                watcher = _Memory(process.pid)
                watcher.start()
                assert process.stderr is not None
                errors = process.stderr.read()
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                watcher.join()
            if process.returncode:
                raise RuntimeError(f"{' '.join(command[2:5])} failed: {errors[-500:]}")
            cpu_s += usage.ru_utime + usage.ru_stime
            peak = max(peak, watcher.peak_bytes)
            most = max(most, self._proxy.counts["bytes downloaded"] - earlier)
        counted = {name: self._proxy.counts[name] - before.get(name, 0) for name in self._proxy.counts}
        seconds = time.perf_counter() - start
        cost = Cost(seconds, cpu_s, peak, counted.get("requests", 0), counted.get("bytes downloaded", 0), most)
        print(" ".join(commands[0][2:4]), len(commands), cost, file=sys.stderr, flush=True)
        return cost


class _Memory(threading.Thread):
    """Watches a process and its children until they end: what `wait4` reports begins with the memory of this one."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.peak_bytes = 0

    def run(self) -> None:
        while own := peak_bytes(self._pid):
            self.peak_bytes = max(self.peak_bytes, own, *map(peak_bytes, descendants(self._pid)))
            time.sleep(0.05)


def _shares(workers: int) -> list[str]:
    return [f"{share}/{workers}" for share in range(1, workers + 1)]


def _draw(root: Path, count: int) -> None:
    """So many labelled tiles, all in val: one TIFF with other last bytes each."""
    images, labels = root / "val" / "images", root / "val" / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    rng = np.random.default_rng(0)
    tifffile.imwrite(root / "tile.tif", rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8), photometric="rgb")
    image = (root / "tile.tif").read_bytes()
    (root / "tile.tif").unlink()
    truths = []
    for number in range(16):
        path = root / f"{number}.png"
        Image.fromarray(rng.integers(0, 3, (SIZE_PX, SIZE_PX), np.uint8)).save(path)
        truths.append(path.read_bytes())
        path.unlink()
    for number in range(count):
        name = f"tile_{number:07d}"
        (images / f"{name}.tif").write_bytes(image[:-8] + number.to_bytes(8, "big"))
        (labels / f"{name}.png").write_bytes(truths[number % len(truths)])
    (root / "dataset.yaml").write_text("version: 1\nname: scale\nclasses: [land, water, wood]\n")
