"""The demo in the images: stopped once, killed once, and then the same scores as the demo on the host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_client import docker

from components.images import ROOT, image


class Demo:
    """`make demo` at work in a folder; what it says goes to a file beside it."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root, self.log, self.start = root, root.with_name(f"{root.name}.log"), time.time()
        command = [sys.executable, "-m", "pipelines", "demo", "--root", str(root), *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def end(self) -> tuple[int, str]:
        """Wait for its end; the exit status, and what it said."""
        status = self.process.wait()
        return status, self.log.read_text()

    def interrupt(self, *command: str) -> tuple[int, str]:
        """Wait until a training's container has published a checkpoint, then `docker <command>` it."""
        while not (found := self._training()):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        docker(*command, found)
        return self.end()

    def _training(self) -> str:
        """The id of a container that trains and has published a checkpoint; kfp.local has no fixed order of models."""
        for model in ("swin", "resnest"):
            running = docker("ps", "--quiet", "--filter", f"ancestor={image(f'train-{model}')}").stdout.strip()
            checkpoints = (self.root / f"s3/landseg/runs/demo/train/{model}").glob("*/checkpoints/*.json")
            if running and any(path.stat().st_mtime > self.start for path in checkpoints):
                return running
        return ""


@pytest.fixture
def demo() -> Iterator[Callable[..., Demo]]:
    """Starts demos; those that still run at the end are ended."""
    started: list[Demo] = []

    def start(root: Path, *options: str) -> Demo:
        started.append(Demo(root, *options))
        return started[-1]

    yield start
    for one in started:
        one.process.terminate()
        one.process.wait()


def scores(root: Path) -> dict[str, Any]:
    summary = json.loads((root / "summary.json").read_text())
    return {name: summary[name] for name in ("models", "ensemble", "num_tiles")}


@pytest.mark.timeout(3600)
def test_interrupted_in_containers_it_ends_with_the_scores_of_the_host(
    tmp_path: Path, demo: Callable[..., Demo]
) -> None:
    here, there = tmp_path / "host", tmp_path / "docker"
    host = demo(here)

    status, said = demo(there, "--docker").interrupt("stop", "--time=60")
    assert status == 1, said
    assert "asked to stop; a checkpoint is published" in said
    assert re.search(r"train-\w+ failed with exit status 143", said)

    status, second = demo(there, "--docker").interrupt("kill")
    assert status == 1, second
    assert "stage-data: reused" in second
    assert re.search(r"train-\w+ failed with exit status 137", second)

    status, third = demo(there, "--docker").end()
    assert status == 0, third
    assert (second + third).count("resuming after") == 2  # once after each interruption

    status, said = host.end()
    assert status == 0, said
    assert scores(there) == scores(here)
