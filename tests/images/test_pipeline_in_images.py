"""The demo in the images: stopped once, killed once, and then the same scores as the demo on the host."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from docker_client import docker

from components.images import ROOT, image


def demo(root: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "demo", "--root", str(root), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out + err


def interrupt(process: subprocess.Popen[str], component: str, folder: Path, *command: str) -> str:
    """Wait for a checkpoint of the component's container, then `docker <command>` it; what the demo said."""
    while not (containers := _running(component)) or not list(folder.glob("*/checkpoints/*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    docker(*command, *containers)
    return process.communicate()[1]


def _running(component: str) -> list[str]:
    return docker("ps", "--quiet", "--filter", f"ancestor={image(component)}").stdout.split()


def scores(root: Path) -> dict[str, Any]:
    summary = json.loads((root / "summary.json").read_text())
    return {name: summary[name] for name in ("models", "ensemble", "num_tiles")}


@pytest.mark.timeout(3600)
def test_interrupted_in_containers_it_ends_with_the_scores_of_the_host(tmp_path: Path) -> None:
    here, there = tmp_path / "host", tmp_path / "docker"
    trained = there / "s3/landseg/runs/demo/train"

    first = demo(there, "--docker")
    said = interrupt(first, "train-swin", trained / "swin", "stop", "--time=60")
    assert first.returncode == 1, said
    assert "asked to stop; a checkpoint is published" in said
    assert "train-swin failed with exit status 143" in said

    second = demo(there, "--docker")
    said = interrupt(second, "train-resnest", trained / "resnest", "kill")
    assert second.returncode == 1, said
    assert "stage-data: reused" in said
    assert "resuming after" in said  # swin
    assert "train-resnest failed with exit status 137" in said

    said = finish(demo(there, "--docker"))
    assert "train-swin: reused" in said
    assert "resuming after" in said  # resnest

    finish(demo(here))
    assert scores(there) == scores(here)
