"""These tests look at the images that `make test-images` has built."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from docker_client import DATA, TRAIN, docker

from components.images import image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("images")


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    if shutil.which("docker") is None or docker("version", check=False).returncode:
        pytest.skip("no Docker engine answers here")
    for component in (*DATA, *TRAIN):
        if docker("image", "inspect", image(component), check=False).returncode:
            pytest.skip(f"{image(component)} is not built: make test-images")
