"""Runs the steps of a local pipeline in their images, by the docker client."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import yaml

from pipelines.errors import UserError
from pipelines.local.processes import Launcher


def container_command(folders: list[Path], network: str = "host") -> Launcher:
    """Run the component's own command in its image, confined as a careful cluster confines a pod.

    Args:
        folders: mounted at the same path: KFP's artifacts, and local data.
        network: the container's network; with `host` it reaches an object storage bound to loopback.
    """

    def launcher(image: str, command: list[str]) -> list[str]:
        mounts = [f"--volume={folder}:{folder}" for folder in folders]
        environment = [f"--env={name}" for name in sorted(os.environ) if name.startswith(("AWS_", "LANDSEG_"))]
        user = f"--user={os.getuid()}:{os.getgid()}"  # so that the files belong to whoever runs this
        # The step is the container's first process and its signals and exit status are the container's. All that it
        # may write to besides the folders is /tmp, an anonymous volume that --rm removes.
        confined = ["--read-only", "--volume=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        run = ["docker", "run", "--rm", "--pull=never", user, *confined, f"--network={network}", "--shm-size=2g"]
        return [*run, *mounts, *environment, "--entrypoint=", image, *command]

    return launcher


def code_in_images(package: Path) -> str:
    """A digest of what is in the images of a compiled pipeline: for the cache, different images are different steps.

    Raises:
        UserError: an image is missing, or no Docker engine answers.
    """
    executors = next(yaml.safe_load_all(package.read_text()))["deploymentSpec"]["executors"].values()
    digest = hashlib.sha256()
    for image in sorted({executor["container"]["image"] for executor in executors}):
        digest.update(_docker("image", "inspect", "--format={{json .RootFS.Layers}}", image).encode())
    return digest.hexdigest()


def _docker(*arguments: str) -> str:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("--docker: expected the docker client on PATH, found none: install Docker") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())
    if "no such image" in said.lower():
        raise UserError(f"image {arguments[-1]}: not on this machine; make build-images FLAVOR=cpu makes it")
    raise UserError(f"--docker: expected a Docker engine that answers, found: {said}")
