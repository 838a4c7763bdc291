"""What KFP's backend demands of a compiled pipeline, as its source says (kubeflow/pipelines, Go).

The backend's compiler is a Go program, which no Python registry carries. So its protobuf messages, which the SDK does
carry, read the YAML as strictly as it does, and its rules are checked on what they read: those of the API server
(apiserver/template/v2_template.go), of the compiler to Argo (v2/compiler/argocompiler) and of the driver, which
resolves the inputs of tasks and pods (v2/driver).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

MAX_WORKFLOW_BYTES = 1_000_000  # a workflow is one object in etcd, which takes 1.5 MB; Argo adds its own state
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
_QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$")
_KINDS = {
    "NUMBER_DOUBLE": "number_value",
    "NUMBER_INTEGER": "number_value",
    "STRING": "string_value",
    "BOOLEAN": "bool_value",
    "LIST": "list_value",
    "STRUCT": "struct_value",
}
_Type = pipeline_spec_pb2.ParameterType.ParameterTypeEnum


@dataclass
class Compiled:
    """A compiled pipeline, parsed strictly.

    Attributes:
        spec: the PipelineSpec.
        executors: PipelineDeploymentConfig.ExecutorSpec by label.
        pods: KubernetesExecutorConfig by label.
        size_bytes: of the YAML.
    """

    spec: Any
    executors: dict[str, Any]
    pods: dict[str, Any]
    size_bytes: int

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
        return cls(spec, dict(deployment.executors), pods, len(text.encode()))

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


def problems(text: str) -> list[str]:
    """What the backend would refuse, in words; empty for a sound pipeline."""
    compiled = Compiled.parse(text)
    return [*_pipeline(compiled), *_components(compiled), *_tasks(compiled), *_containers(compiled), *_pods(compiled)]


def _pipeline(compiled: Compiled) -> Iterator[str]:
    spec = compiled.spec
    if spec.schema_version != "2.1.0":
        yield f"schema version {spec.schema_version!r}"
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,126}[a-z0-9])?", spec.pipeline_info.name):
        yield f"pipeline name {spec.pipeline_info.name!r}"
    if compiled.size_bytes > MAX_WORKFLOW_BYTES:
        yield f"{compiled.size_bytes} bytes"
    for name, item in spec.root.input_definitions.parameters.items():
        if item.parameter_type == _Type.PARAMETER_TYPE_ENUM_UNSPECIFIED:
            yield f"root parameter {name} has no type"
        if item.HasField("default_value") and not _fits(item.default_value, item.parameter_type):
            yield f"root parameter {name}: the default is of another type"


def _components(compiled: Compiled) -> Iterator[str]:
    components = compiled.spec.components
    used = Counter(task.component_ref.name for _, dag in compiled.dags() for task in dag.dag.tasks.values())
    for name in used.keys() - components.keys():
        yield f"component {name} does not exist"
    templates = Counter(components.keys())
    for _, dag in compiled.dags():
        for task_name, task in dag.dag.tasks.items():
            if task.HasField("parameter_iterator"):  # the compiler names two templates after a loop
                templates.update([f"{task.component_ref.name}-{task_name}-iterator"])
                templates.update([f"{task.component_ref.name}-iteration"])
    for name, number in templates.items():
        if number > 1:
            yield f"template {name} already exists"
        if not re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9]*", name):
            yield f"template name {name!r}"
    for name, component in components.items():
        if not used[name]:
            yield f"component {name} is not used"
        if component.HasField("executor_label") and component.executor_label not in compiled.executors:
            yield f"executor {component.executor_label} of {name} does not exist"


def _tasks(compiled: Compiled) -> Iterator[str]:
    for dag_name, dag in compiled.dags():
        tasks = dag.dag.tasks
        known = {name for name in tasks if tasks[name].component_ref.name in compiled.spec.components}
        if not tasks:
            yield f"{dag_name} has no tasks"
        if _has_cycle({name: set(tasks[name].dependent_tasks) for name in tasks}):
            yield f"{dag_name} has a cycle"
        for name in known:
            where = f"{dag_name}/{name}"
            for problem in (*_task(compiled, dag, tasks[name]), *_iterator(tasks[name])):
                yield f"{where}: {problem}"
        for key, output in dag.dag.outputs.artifacts.items():
            for selector in output.artifact_selectors:
                producer = tasks.get(selector.producer_subtask)
                if producer is None or (
                    selector.output_artifact_key not in _component(compiled, producer).output_definitions.artifacts
                ):
                    yield f"{dag_name}: output {key} comes from nowhere"


def _task(compiled: Compiled, dag: Any, task: Any) -> Iterator[str]:
    component = _component(compiled, task)
    declared, outer = component.input_definitions, dag.input_definitions
    for dependency in task.dependent_tasks:
        if dependency not in dag.dag.tasks:
            yield f"depends on {dependency}, which is not in its DAG"
    item = task.parameter_iterator.item_input
    for name, parameter in declared.parameters.items():
        if name not in task.inputs.parameters and name != item and not parameter.is_optional:
            yield f"parameter {name} is not given"
    for name, artifact in declared.artifacts.items():
        if name not in task.inputs.artifacts and not artifact.is_optional:
            yield f"artifact {name} is not given"
    for name, source in task.inputs.parameters.items():
        if name not in declared.parameters:
            yield f"parameter {name} is not declared"
            continue
        wanted = declared.parameters[name].parameter_type
        if source.HasField("runtime_value"):
            if not _fits(source.runtime_value.constant, wanted):
                yield f"parameter {name}: the constant is of another type"
            continue
        if source.HasField("component_input_parameter"):
            found = outer.parameters.get(source.component_input_parameter)
        else:
            output = source.task_output_parameter
            found = _output(compiled, dag, task, output.producer_task, "parameters", output.output_parameter_key)
        if found is None:
            yield f"parameter {name} comes from nowhere"
        elif found.parameter_type != wanted:
            yield f"parameter {name} is given a {_Type.Name(found.parameter_type)}"
    for name, source in task.inputs.artifacts.items():
        if name not in declared.artifacts:
            yield f"artifact {name} is not declared"
            continue
        if source.HasField("component_input_artifact"):
            found = outer.artifacts.get(source.component_input_artifact)
        else:
            output = source.task_output_artifact
            found = _output(compiled, dag, task, output.producer_task, "artifacts", output.output_artifact_key)
        if found is None:
            yield f"artifact {name} comes from nowhere"
        elif found.artifact_type.schema_title != declared.artifacts[name].artifact_type.schema_title:
            yield f"artifact {name} is given a {found.artifact_type.schema_title}"
        elif found.is_artifact_list != declared.artifacts[name].is_artifact_list:
            yield f"artifact {name}: one is a list, the other is not"


def _iterator(task: Any) -> Iterator[str]:
    if task.HasField("artifact_iterator"):
        yield "artifact iterators are not implemented"
    if task.HasField("parameter_iterator"):
        items = task.parameter_iterator.items
        if items.HasField("input_parameter") and items.input_parameter not in task.inputs.parameters:
            yield f"loops over {items.input_parameter}, which is not given"


def _containers(compiled: Compiled) -> Iterator[str]:
    for name, component in compiled.spec.components.items():
        if not component.HasField("executor_label") or component.executor_label not in compiled.executors:
            continue
        container = compiled.executors[component.executor_label].container
        if not container.image or not container.command:
            yield f"{name}: no image or no command"  # the launcher ignores ENTRYPOINT
        for argument in (*container.command, *container.args):
            left = _PLACEHOLDER.sub("", argument).replace("{{$}}", "")
            if "{{" in left:
                yield f"{name}: {argument} stays as it is"
            for parameter in _PLACEHOLDER.findall(argument):
                if parameter not in component.input_definitions.parameters:
                    yield f"{name}: {argument} names no input"
        resources = container.resources
        for field in ("cpu_request", "cpu_limit", "memory_request", "memory_limit"):
            value = getattr(resources, f"resource_{field}")
            if value and not _QUANTITY.match(value):
                yield f"{name}: {field} {value!r} is no quantity"


def _pods(compiled: Compiled) -> Iterator[str]:
    for label in compiled.pods.keys() - compiled.executors.keys():
        yield f"pod of {label}, which does not exist"
    for dag_name, dag, name, _, component in compiled.tasks():
        pod = compiled.pods.get(component.executor_label)
        if pod is None:
            continue
        sources = [(item.toleration_json, {_Type.LIST, _Type.STRUCT}) for item in pod.tolerations]
        sources += [(pod.node_selector.node_selector_json, {_Type.STRUCT})] if pod.HasField("node_selector") else []
        for source, kinds in sources:  # the driver looks them up among the inputs of the DAG that the task is in
            found = dag.input_definitions.parameters.get(source.component_input_parameter)
            if found is None or found.parameter_type not in kinds:
                yield f"{dag_name}/{name}: the pod's {source.component_input_parameter} comes from nowhere"
        for volume in pod.empty_dir_mounts:
            if not _QUANTITY.match(volume.size_limit) or volume.medium not in ("", "Memory"):
                yield f"{dag_name}/{name}: volume {volume.volume_name}"


def _component(compiled: Compiled, task: Any) -> Any:
    return compiled.spec.components[task.component_ref.name]


def _output(compiled: Compiled, dag: Any, task: Any, producer: str, kind: str, key: str) -> Any:
    if producer not in dag.dag.tasks or producer not in task.dependent_tasks:
        return None
    component = _component(compiled, dag.dag.tasks[producer])
    return getattr(component.output_definitions, kind).get(key)


def _fits(value: Any, parameter_type: int) -> bool:
    return str(value.WhichOneof("kind")) == _KINDS.get(_Type.Name(parameter_type), "")


def _has_cycle(graph: dict[str, set[str]]) -> bool:
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    return bool(left)
