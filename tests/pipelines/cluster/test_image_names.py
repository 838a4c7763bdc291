"""`make build-images` makes, and `make push-images` pushes, the very images that the compiled YAML names."""

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from components.images import ROOT, version
from pipelines.dags.compile import PIPELINES, compile_text
from pipelines.dags.packages import package

STAGES = {"stage-data", "train-swin", "train-resnest", "export-probs", "average-probs"}


@pytest.fixture
def docker_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the docker client that notes its arguments, one per line, calls with an empty line between."""
    client = tmp_path / "docker"
    client.write_text(f'#!/bin/sh\n{{ printf "%s\\n" "$@"; echo; }} >> "{tmp_path}/calls"\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "calls"


def make(calls: Path, target: str, **variables: str) -> list[list[str]]:
    """The calls of the docker client that a target makes."""
    calls.unlink(missing_ok=True)
    given = [f"{name}={value}" for name, value in variables.items()]
    subprocess.run(["make", "--silent", target, *given], cwd=ROOT, capture_output=True, text=True, check=True)
    return [call.splitlines() for call in calls.read_text().strip().split("\n\n")]


def after(flag: str, call: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(call) if name == flag]


def named(text: str) -> set[str]:
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"].values()
    return {executor["container"]["image"] for executor in executors}


@pytest.mark.parametrize(
    ("registry", "tag"), [("", ""), ("registry.example.org:5000/team/", ""), ("", "2026.1"), ("r.example.org", "v1-rc")]
)
def test_a_registry_and_a_tag_are_followed_into_the_yaml(registry: str, tag: str, docker_calls: Path) -> None:
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    expected = {f"{prefix}landseg-{stage}:{tag or version()}" for stage in STAGES}
    built = make(docker_calls, "build-images", REGISTRY=registry, TAG=tag)
    assert {image for call in built for image in after("--tag", call)} == expected
    pushed = make(docker_calls, "push-images", REGISTRY=registry or "r", TAG=tag)
    assert {image for call in pushed for image in after("push", call)} == {
        image if registry else f"r/{image}" for image in expected
    }
    assert named(compile_text(PIPELINES["train-and-ensemble"], registry, tag)) == expected
    assert all(named(compile_text(pipeline, registry, tag)) <= expected for pipeline in PIPELINES.values())


def test_no_committed_yaml_says_latest() -> None:
    for name in PIPELINES:
        assert all(image.endswith(f":{version()}") for image in named(package(name).read_text()))


def test_images_of_others_are_named_by_digest() -> None:
    base = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert base
    manifests = (path.read_text() for path in (ROOT / "manifests").rglob("*.yaml"))
    images = [
        base[1],
        *(image for text in manifests for image in re.findall(r"^\s*(?:- )?image: (\S+)", text, re.MULTILINE)),
    ]
    assert len(images) > 1
    assert [image for image in images if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image)] == []


def test_a_failed_build_names_the_base_and_the_way_round(docker_calls: Path) -> None:
    client = docker_calls.parent / "docker"
    client.write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run(["make", "--silent", "build-images"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "python:3.11-slim-bookworm@sha256:" in done.stderr
    assert "BASE_IMAGE=" in done.stderr


def test_arguments_reach_the_build(docker_calls: Path) -> None:
    given = {
        "BASE_IMAGE": "mirror.example.org/python:3.11-slim-bookworm",
        "FLAVOR": "cpu",
        "CUDA_ARCHS": "8.0;9.0",
        "MAX_JOBS": "3",
    }
    more = {"PIP_INDEX_URL": "https://pypi.example.org/simple", "BUILD_ARGS": "HTTPS_PROXY=http://proxy:3128 A=*"}
    calls = make(docker_calls, "build-images", PLATFORM="linux/amd64", **given, **more)
    declared = set(re.findall(r"^ARG (\w+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE))
    assert declared == set(given)
    assert len(calls) == len(STAGES)
    for call in calls:
        assert set(after("--build-arg", call)) == {
            *(f"{name}={value}" for name, value in given.items()),
            "HTTPS_PROXY=http://proxy:3128",
            "A=*",
        }
        assert after("--secret", call) == ["id=pip_index_url,env=PIP_INDEX_URL"]
        assert after("--platform", call) == ["linux/amd64"]
        assert f"org.opencontainers.image.base.name={given['BASE_IMAGE']}" in after("--label", call)


def test_another_engine_builds_and_pushes(docker_calls: Path) -> None:
    client = docker_calls.parent / "docker"
    assert make(docker_calls, "build-images", DOCKER="1")
    client.rename(client.with_name("podman"))
    assert {call[0] for call in make(docker_calls, "build-images", DOCKER="podman")} == {"build"}
    assert {call[0] for call in make(docker_calls, "push-images", DOCKER="podman", REGISTRY="r")} == {"push"}


@pytest.mark.parametrize("value", ['x"; touch M; "', "x`touch M`", "$(touch M)", "$(shell touch M)", "'; touch M; '"])
def test_what_is_given_is_never_executed(value: str, docker_calls: Path) -> None:
    make(docker_calls, "build-images", REGISTRY=value, TAG=value, FLAVOR=value, BUILD_ARGS=value)
    make(docker_calls, "push-images", REGISTRY=value)
    for target in ("submit", "rerun", "status", "deploy", "compile"):
        given = [
            f"{name}={value}" for name in ("ENDPOINT", "STORAGE", "SOURCE", "RUN", "STEP", "PARAMS", "NAMESPACE", "TAG")
        ]
        command = ["make", "--silent", "--old-file=.venv/.installed", target, "BIN=/nonexistent", *given]
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not (ROOT / "M").exists()


@pytest.mark.parametrize(("value", "is_on"), [("1", True), ("yes", True), ("0", False), ("no", False), ("", False)])
def test_a_switch_that_says_no_is_off(value: str, is_on: bool) -> None:
    for target, switch, option in (
        ("deploy", "FORCE", "--force"),
        ("deploy", "DRY_RUN", "--dry-run"),
        ("demo", "FRESH", "--fresh"),
        ("demo", "DOCKER", "--docker"),
        ("submit", "WAIT", "--wait"),
        ("submit", "NO_CACHE", "--no-cache"),
    ):
        command = ["make", "--dry-run", "--old-file=.venv/.installed", target, f"{switch}={value}"]
        recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert (option in recipe) == is_on, (target, switch)


def test_a_dollar_sign_stays_one(docker_calls: Path) -> None:
    calls = make(docker_calls, "build-images", BUILD_ARGS="PASSWORD=a$b$(c)$$")
    assert all("PASSWORD=a$b$(c)$$" in after("--build-arg", call) for call in calls)


def test_nothing_untracked_is_needed_to_build() -> None:
    """Everything that the Dockerfile copies from the checkout is committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert any(Path(path).is_relative_to(source) for path in tracked), source
