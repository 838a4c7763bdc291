"""Reads a compiled pipeline as strictly as KFP's backend: into the protobuf messages that the backend itself uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2


@dataclass
class Compiled:
    """A compiled pipeline, parsed strictly.

    Attributes:
        spec: the PipelineSpec.
        executors: PipelineDeploymentConfig.ExecutorSpec by label.
        pods: KubernetesExecutorConfig by label.
    """

    spec: Any
    executors: dict[str, Any]
    pods: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Compiled:
        """Parse.

        Raises:
            json_format.ParseError: a field that the backend's messages do not have, or of another type.
        """
        first, second = yaml.safe_load_all(text)
        spec = json_format.ParseDict(first, pipeline_spec_pb2.PipelineSpec())
        deployment = json_format.ParseDict(
            json_format.MessageToDict(spec.deployment_spec), pipeline_spec_pb2.PipelineDeploymentConfig()
        )
        platform = json_format.ParseDict(second, pipeline_spec_pb2.PlatformSpec())
        pods = {
            label: json_format.ParseDict(
                json_format.MessageToDict(config), kubernetes_executor_config_pb2.KubernetesExecutorConfig()
            )
            for label, config in platform.platforms["kubernetes"].deployment_spec.executors.items()
        }
        return cls(spec, dict(deployment.executors), pods)

    def dags(self) -> Iterator[tuple[str, Any]]:
        """Every component that is a DAG, the root first."""
        yield "root", self.spec.root
        yield from ((name, item) for name, item in sorted(self.spec.components.items()) if item.HasField("dag"))

    def tasks(self) -> Iterator[tuple[str, Any, str, Any, Any]]:
        """Every task: name and component of its DAG, its name, itself, its component."""
        for dag_name, dag in self.dags():
            for name, task in sorted(dag.dag.tasks.items()):  # protobuf's maps have no order
                yield dag_name, dag, name, task, self.spec.components[task.component_ref.name]

    def origins(self, dag_name: str, parameter: str) -> set[str]:
        """The pipeline's own parameters that a DAG's input comes from, through the DAGs it is nested in."""
        if dag_name == "root":
            return {parameter}
        found = set()
        for outer, _, _, task, _ in self.tasks():
            if task.component_ref.name == dag_name:
                source = task.inputs.parameters[parameter].component_input_parameter
                found |= self.origins(outer, source) if source else {""}
        return found
