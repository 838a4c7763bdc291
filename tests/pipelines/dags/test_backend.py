"""Every compiled pipeline is read as KFP's backend reads it, and keeps the rules that were measured on KFP 2.17."""

from __future__ import annotations

import re

import pytest
from compiled_pipeline import Compiled
from google.protobuf import json_format

from pipelines.dags.compile import PIPELINES
from pipelines.dags.packages import package, with_images
from pipelines.dags.scheduling import with_queue

TEXT = package("train-and-ensemble").read_text()
PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")


def problems(text: str) -> list[str]:
    """Where a pipeline breaks what was measured; empty for a sound one."""
    compiled = Compiled.parse(text)
    found = []
    for _, _, name, task, component in compiled.tasks():
        if not component.HasField("executor_label"):
            continue
        declared = set(component.input_definitions.parameters)
        if left_out := declared - set(task.inputs.parameters):  # the component's defaults are not used
            found.append(f"{name} leaves {', '.join(sorted(left_out))} out")
        container = compiled.executors[component.executor_label].container
        if not container.command:  # an image's ENTRYPOINT is ignored
            found.append(f"{name} has no command")
        for argument in (*container.command, *container.args):
            if "{{" in PLACEHOLDER.sub("", argument).replace("{{$}}", ""):  # reaches the command as it is
                found.append(f"{name}: {argument} is not substituted")
            if unknown := set(PLACEHOLDER.findall(argument)) - declared:
                found.append(f"{name}: {argument} is not an input: {unknown}")
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_sound(name: str) -> None:
    assert problems(package(name).read_text()) == []


def test_a_pipeline_made_for_one_cluster_is_sound() -> None:
    assert problems(with_queue(with_images(TEXT, "registry.example.org/team", "7"), "landseg")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("            max_bad:\n              componentInputParameter: max_bad\n", "", "stage-data leaves max_bad out"),
        ("command:\n        - landseg\n        - stage-data\n", "command: []\n", "stage-data has no command"),
        ("- '{{$}}'", "- '{{$.outputs.output_file}}'", "{{$.outputs.output_file}} is not substituted"),
        ("- '{{$}}'", "- '{{$.pipeline_job_uuid}}'", "{{$.pipeline_job_uuid}} is not substituted"),
        ("$.inputs.parameters[''splits'']", "$.inputs.parameters[''split'']", "is not an input: {'split'}"),
    ],
)
def test_what_breaks_a_measured_rule_is_seen(old: str, new: str, said: str) -> None:
    assert old in TEXT
    assert any(said in problem for problem in problems(TEXT.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("maxRetryCount:", "maxRetries:"),
        ("activeDeadlineSeconds:", "deadline:"),
        ("enableCache: true", "enableCache: often"),
        ("parameterType: NUMBER_INTEGER", "parameterType: WHOLE_NUMBER"),
    ],
)
def test_fields_and_values_that_the_backend_does_not_know_are_seen(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(json_format.ParseError):
        Compiled.parse(TEXT.replace(old, new))
