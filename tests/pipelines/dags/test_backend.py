"""Every compiled pipeline is what KFP's backend takes; and what it would not take is seen."""

from __future__ import annotations

import pytest
from backend_rules import Compiled, problems
from google.protobuf import json_format

from pipelines.dags.compile import PIPELINES, package, with_images
from pipelines.dags.scheduling import with_queue

TEXT = package("train-and-ensemble").read_text()


@pytest.mark.parametrize("name", PIPELINES)
def test_the_backend_takes_it(name: str) -> None:
    assert problems(package(name).read_text()) == []


def test_the_backend_takes_what_is_made_for_one_cluster() -> None:
    assert problems(with_queue(with_images(TEXT, "registry.example.org/team", "7"), "landseg")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schemaVersion: 2.1.0", "schemaVersion: 2.0.0", "schema version"),
        ("name: train-and-ensemble\n", "name: Train_and\n", "pipeline name"),
        ("name: comp-stage-data\n", "name: comp-staged\n", "component comp-staged does not exist"),
        ("executorLabel: exec-stage-data", "executorLabel: exec-x", "executor exec-x of comp-stage-data"),
        ("producerTask: plan-export", "producerTask: plan", "comes from nowhere"),
        ("outputParameterKey: shares", "outputParameterKey: share", "comes from nowhere"),
        ("outputArtifactKey: model", "outputArtifactKey: metrics", "artifact pipelinechannel--train-swin-model"),
        ("componentInputParameter: epochs", "componentInputParameter: lr", "is given a NUMBER_DOUBLE"),
        ("constant: ''", "constant: 3", "the constant is of another type"),
        (
            "componentInputParameter: pipelinechannel--node_selector",
            "componentInputParameter: node_selector",
            "the pod's",
        ),
        ("$.inputs.parameters[''splits'']", "$.inputs.parameters[''split'']", "names no input"),
        ("- '{{$}}'", "- '{{$.pipeline_job_uuid}}'", "stays as it is"),
        ("inputParameter: pipelinechannel--plan-export-shares", "inputParameter: shares", "loops over shares"),
        ("resourceMemoryLimit: 64Gi", "resourceMemoryLimit: 64GB", "is no quantity"),
        ("medium: Memory", "medium: RAM", "volume shm"),
    ],
)
def test_what_it_would_refuse_is_seen(old: str, new: str, said: str) -> None:
    assert old in TEXT
    assert any(said in problem for problem in problems(TEXT.replace(old, new)))


def test_fields_it_does_not_know_are_seen() -> None:
    for old, new in (("maxRetryCount:", "maxRetries:"), ("activeDeadlineSeconds:", "deadline:")):
        with pytest.raises(json_format.ParseError):
            Compiled.parse(TEXT.replace(old, new))
