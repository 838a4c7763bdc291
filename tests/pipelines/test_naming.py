"""Names that Kubernetes or a registry would refuse are refused before anything is asked of a cluster."""

from __future__ import annotations

import argparse

import pytest

from pipelines import naming
from pipelines.errors import UserError


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("namespace", ["kubeflow", "team-1"], ["My NS", "../x", "-a", "a.b", "a" * 64, "a\n"]),
        ("service_account", ["landseg", "default-editor", "a.b"], ["foo bar", "Landseg", "a..b", "a" * 254]),
        ("queue", ["gpus"], ["my queue", "queue: x", "Gpus"]),
        ("pull_secret", ["regcred"], ["a b", "Regcred"]),
        (
            "registry",
            ["docker.io/team", "localhost:5000", "host:5000/a/b-c/"],
            ["https://host/x", "host/A b", "a//x"],
        ),
        ("tag", ["0.1.0", "2026-11_a", "v1"], ["my tag", "-a", "a/b", "a" * 129]),
    ],
)
def test_names(name: str, good: list[str], bad: list[str]) -> None:
    naming.check(argparse.Namespace())
    for value in ["", *good]:
        naming.check(argparse.Namespace(**{name: value}))
    for value in bad:
        with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: expected .*, found"):
            naming.check(argparse.Namespace(**{name: value}))
