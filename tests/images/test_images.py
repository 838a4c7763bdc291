"""What is in the images, what may be done with them, and how they end. Slow where Docker is: `make test-images`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from docker_client import DATA, TRAIN, docker, inspect, layers, run

from components.images import ROOT, image, version

EVERY = pytest.mark.parametrize("component", [*DATA, *TRAIN])
DATA_BYTES = 530_000_000

INSTALLERS = ("pip", "setuptools", "wheel")
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "ld", "make", "ninja", "nvcc", "ptxas", "cicc", "cudafe++")

# Runs in an image; prints programs that must not be there, and paths that the image's user may write to.
LOOK = """
import json, os, shutil, sys
programs = set(sys.argv[1:])
found, writable, caches, raised = [], [], [], []
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev", "/tmp")]
    found += [os.path.join(folder, name) for name in files if name in programs]
    caches += [os.path.join(folder, name) for name in files if name.endswith((".whl", ".deb", "_Packages", ".o", ".a"))]
    raised += [name for name in files if os.lstat(os.path.join(folder, name)).st_mode & 0o6000]
    for name in [*folders, *files]:
        path = os.path.join(folder, name)
        if not os.path.islink(path) and os.access(path, os.W_OK):
            writable.append(path)
print(json.dumps({"programs": found, "writable": writable, "caches": caches, "raised": raised, "uid": os.getuid()}))
"""


def installed(component: str) -> set[str]:
    code = "import importlib.metadata as m; print(*{d.metadata['Name'].lower() for d in m.distributions()})"
    return set(run(component, "python", "-c", code).stdout.split())


@EVERY
def test_labels_say_what_it_is(component: str) -> None:
    labels = inspect(component)["Config"]["Labels"]
    label = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert label["title"] == f"landseg-{component}"
    assert label["version"] == version() == project["version"]
    assert label["licenses"] == project["license"]
    assert len(label["description"]) > 10
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", label["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}[+-]\d\d:\d\d", label["created"])
    assert label["base.name"]


@pytest.mark.parametrize("component", DATA)
def test_data_images_are_small_and_have_no_torch(component: str) -> None:
    assert inspect(component)["Size"] <= DATA_BYTES
    assert not installed(component) & {"torch", "torchvision", "mmcv", "mmcv-full", "mmsegmentation", "triton"}


@pytest.mark.parametrize("component", TRAIN)
def test_images_with_torch_have_what_training_needs(component: str) -> None:
    names = installed(component)
    assert {"torch", "torchvision", "mmcv-full", "mmsegmentation"} <= names
    assert not names & {"mmcv", "triton"}


def test_five_images_take_the_disk_of_two() -> None:
    assert len({tuple(layers(image(component))) for component in DATA}) == 1
    assert len({tuple(layers(image(component))) for component in TRAIN}) == 1
    assert layers(image(DATA[0]))[:2] == layers(image(TRAIN[0]))[:2]  # the base image


@EVERY
def test_nothing_is_in_it_that_no_stage_needs(component: str) -> None:
    assert not installed(component) & {"kfp", "pip", "wheel", "ninja", "pytest"}
    for name in INSTALLERS:
        found = run(component, "/usr/bin/env", "-i", sys_python(component), "-c", f"import {name}", check=False)
        assert found.returncode, f"the base's Python has {name}"
    seen = json.loads(run(component, "python", "-c", LOOK, *COMPILERS).stdout)
    assert not seen["programs"]
    assert not seen["raised"], "files that run with the rights of their owner or group"
    assert not [path for path in seen["caches"] if not path.startswith("/usr/share/python-wheels/")]  # the base's own


def sys_python(component: str) -> str:
    return run(component, "python", "-c", "import sys; print(sys._base_executable)").stdout.strip()


@EVERY
def test_it_runs_as_a_user_who_may_write_nowhere(component: str) -> None:
    assert inspect(component)["Config"]["User"] == "10001:10001"
    # Without --read-only: this is about the files' rights, not about the mount.
    seen = json.loads(docker("run", "--rm", image(component), "python", "-c", LOOK).stdout)
    assert seen["uid"] == 10001
    assert {path for path in seen["writable"] if not re.match(r"/(var/tmp|run/lock|var/lock)$", path)} == set()
    assert inspect(component)["Config"]["Entrypoint"] is None


@EVERY
def test_doctor_finds_nothing_wrong(component: str, s3: Any) -> None:
    variables = [f"--env={name}" for name in s3.server.env]
    command = [
        "landseg",
        "doctor",
        "--json",
        "--storage-uri",
        s3.uri,
        "--min-scratch-gb",
        "0.1",
        "--min-shm-gb",
        "0.05",
    ]
    found = json.loads(run(component, *command, options=("--network=host", *variables)).stdout)
    checks = {finding["check"]: finding for finding in found}
    assert version() in checks["landseg"]["found"]
    assert all(checks[name]["ok"] for name in ("/dev/shm", "scratch", "object storage"))
    if component in TRAIN:
        assert "mmcv-full 1.7.2" in checks["packages"]["found"]
        assert checks["compiled ops"] == {
            "check": "compiled ops",
            "ok": True,
            "found": "mmcv.ops.nms ran on cpu, compiled for the CPU",
        }
        assert checks["GPUs"]["found"] == "none"


@EVERY
def test_doctor_says_what_is_wrong(component: str) -> None:
    options = ("--network=none", "--env=AWS_ENDPOINT_URL=http://127.0.0.1:9", "--env=AWS_ACCESS_KEY_ID=a")
    options = (*options, "--env=AWS_SECRET_ACCESS_KEY=b", "--env=AWS_REGION=us-east-1")
    command = ["landseg", "doctor", "--gpus", "1", "--min-shm-gb", "9999", "--storage-uri", "s3://bucket/x"]
    done = run(component, *command, options=options, check=False)
    assert done.returncode == 2
    (reason,) = done.stderr.splitlines()[-1:]
    assert "/dev/shm: expected 9999 GiB" in reason
    assert "GPUs: " in reason
    assert "object storage at http://127.0.0.1:9 is out of reach" in reason


@pytest.mark.parametrize("component", TRAIN)
def test_the_compiled_extension_is_the_one_that_is_used(component: str) -> None:
    code = (
        "import landseg.models.compat as compat, mmcv._ext, torch, mmcv.ops; assert compat.has_compiled_ops(); "
        "image = torch.arange(16.0).reshape(1, 1, 4, 4); "
        "box = torch.tensor([[0, 0.0, 0, 3, 3]]); print(mmcv._ext.__file__); "
        "print(mmcv.ops.roi_align(image, box, (1, 1), 1.0, 1, 'avg', True).item())"
    )
    where, value = run(component, "python", "-c", code).stdout.split()
    assert re.fullmatch(r"/opt/landseg/lib/.*/mmcv/_ext\..*\.so", where)
    assert float(value) == 5.0  # between the four pixels around (1, 1): (0 + 1 + 4 + 5 ... + 10) / 4


@EVERY
def test_no_shell_is_needed(component: str) -> None:
    no_shell = [f"--volume=/dev/null:/usr/bin/{shell}" for shell in ("sh", "dash", "bash")]
    assert run(component, "sh", "-c", "true", options=(*no_shell,), check=False).returncode
    run(component, "landseg", "doctor", options=("--network=none", *no_shell))
    tiles = ("--train=4", "--val=1", "--test=1", "--size=64")
    run(component, "landseg", "make-sample-data", "/tmp/data", *tiles, options=("--network=none", *no_shell))


@EVERY
def test_exit_statuses_pass_through(component: str) -> None:
    assert run(component, "landseg", "--version").stdout.strip() == f"landseg {version()}"
    wrong = run(component, "landseg", "verify", "/nowhere/manifest.json", check=False)
    assert wrong.returncode == 2
    assert run(component, "python", "-c", "raise SystemExit(7)", check=False).returncode == 7


def test_sigterm_reaches_the_stage() -> None:
    name = "landseg-test-sigterm"
    command = ["landseg", "make-sample-data", "/tmp/data", "--train=99999", "--val=1", "--test=1"]
    docker("run", "--detach", "--name", name, "--volume=/tmp", image("stage-data"), *command)
    begun = "import os; print(*os.listdir('/tmp'))"
    try:
        while not docker("exec", name, "python", "-c", begun).stdout.strip():
            time.sleep(0.2)
        start = time.monotonic()
        docker("stop", "--time=60", name)
        assert time.monotonic() - start < 50  # else it was killed
        assert docker("wait", name).stdout.strip() == "143"
        assert "terminated" in docker("logs", name).stderr
    finally:
        docker("rm", "--force", "--volumes", name)


@pytest.mark.parametrize("component", [DATA[0], TRAIN[0]])
def test_a_change_of_the_source_makes_only_the_last_layer_again(component: str, tmp_path: Path) -> None:
    for folder in ("docker", "requirements", "src"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("Makefile", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "src/landseg/cli/progress.py").open("a").write("# changed\n")
    build = ["make", "build-images", "FLAVOR=cpu", f"IMAGES={component}", "TAG=changed"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    changed = image(component).rpartition(":")[0] + ":changed"
    before, after = layers(image(component)), layers(changed)
    docker("rmi", changed)
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.mark.parametrize("component", [DATA[0], TRAIN[0]])
def test_the_bill_of_materials_lists_what_is_installed(component: str, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        subprocess.run([sys.executable, str(ROOT / "docker/sbom.py"), image(component)], cwd=tmp_path, check=True)
        (path,) = (tmp_path / "build/sbom").iterdir()
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(texts[0]) is None
    listed = json.loads(texts[0])
    assert listed["metadata"]["component"]["name"] == f"landseg-{component}"
    names = {entry["name"].lower() for entry in listed["components"]}
    assert installed(component) | {"landseg", "python", "libc6", "base-files"} <= names
