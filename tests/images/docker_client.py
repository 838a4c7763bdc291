"""The images as tests look at them, through the docker client."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from components.images import ROOT, image

DATA = ("stage-data", "average-probs")
TRAIN = ("train-swin", "train-resnest", "export-probs")
CONFINED = ("--rm", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


def docker(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, cwd=ROOT, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


def inspect(component: str) -> dict[str, Any]:
    (facts,) = json.loads(docker("image", "inspect", image(component)).stdout)
    return facts


def layers(reference: str) -> list[str]:
    return json.loads(docker("image", "inspect", "--format={{json .RootFS.Layers}}", reference).stdout)


def run(component: str, *command: str, options: tuple[str, ...] = ("--network=none",), **rest: Any) -> Any:
    """Run a command in a component's image, as the image's own user, confined as a careful cluster confines a pod."""
    return docker("run", *CONFINED, *options, image(component), *command, **rest)
