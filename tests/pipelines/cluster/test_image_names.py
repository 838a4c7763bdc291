"""`make build-images` makes, and `make push-images` pushes, the very images that the compiled YAML names."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from components.images import ROOT, version
from pipelines.dags.compile import PIPELINES, compile_text, package

STAGES = {"stage-data", "train-swin", "train-resnest", "export-probs", "average-probs"}


def make(target: str, **variables: str) -> str:
    given = [f"{name}={value}" for name, value in variables.items()]
    return subprocess.run(
        ["make", "--dry-run", target, *given], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def named(text: str) -> set[str]:
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"].values()
    return {executor["container"]["image"] for executor in executors}


@pytest.mark.parametrize(
    ("registry", "tag"), [("", ""), ("registry.example.org:5000/team/", ""), ("", "2026.1"), ("r.example.org", "v1-rc")]
)
def test_a_registry_and_a_tag_are_followed_into_the_yaml(registry: str, tag: str) -> None:
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    expected = {f"{prefix}landseg-{stage}:{tag or version()}" for stage in STAGES}
    assert set(re.findall(r"--tag (\S+)", make("build-images", REGISTRY=registry, TAG=tag))) == expected
    assert set(re.findall(r"docker push (\S+)", make("push-images", REGISTRY=registry or "r", TAG=tag))) == {
        image if registry else f"r/{image}" for image in expected
    }
    assert named(compile_text(PIPELINES["train-and-ensemble"], registry, tag)) == expected
    assert all(named(compile_text(pipeline, registry, tag)) <= expected for pipeline in PIPELINES.values())


def test_no_committed_yaml_says_latest() -> None:
    for name in PIPELINES:
        assert all(image.endswith(f":{version()}") for image in named(package(name).read_text()))


def test_arguments_reach_the_build() -> None:
    given = {
        "BASE_IMAGE": "mirror.example.org/python:3.11-slim-bookworm",
        "FLAVOR": "cpu",
        "CUDA_ARCHS": "8.0;9.0",
        "PIP_INDEX_URL": "https://pypi.example.org/simple",
        "MAX_JOBS": "3",
    }
    text = make("build-images", PLATFORM="linux/amd64", **given)
    declared = set(re.findall(r"^ARG (\w+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE))
    assert declared == set(given)
    for name, value in given.items():
        assert text.count(f'--build-arg "{name}={value}"') == len(STAGES)
    assert text.count("--platform linux/amd64") == len(STAGES)
    assert f"base.name={given['BASE_IMAGE']}" in text


def test_nothing_untracked_is_needed_to_build() -> None:
    """Everything that the Dockerfile copies from the checkout is committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert any(Path(path).is_relative_to(source) for path in tracked), source
