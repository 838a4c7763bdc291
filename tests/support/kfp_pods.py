"""The pods that KFP 2.17.0 with Argo 4.0.5 makes of a compiled pipeline, as far as Kubernetes looks at them.

Written after kubeflow/pipelines 2.17.0, `backend/src/v2/compiler/argocompiler/{container,security_context}.go` (the
template of an executor) and `backend/src/v2/driver/{driver,k8s}.go` (the patch of a task), KFP's ConfigMap
`workflow-controller-configmap` (Argo's own containers), and argo-workflows 4.0.5, `workflow/controller/workflowpod.go`.
"""

from __future__ import annotations

from typing import Any

from compiled_pipeline import Compiled

Pod = dict[str, Any]

LOCKED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
SCRATCH = {  # what KFP's launcher copies artifacts to
    "kfp-launcher": "/kfp-launcher",
    "gcs-scratch": "/gcs",
    "s3-scratch": "/s3",
    "minio-scratch": "/minio",
    "dot-local-scratch": "/.local",
    "dot-cache-scratch": "/.cache",
    "dot-config-scratch": "/.config",
}
ARGO = {"var-run-argo": "/var/run/argo", "tmp-dir-argo": "/tmp-argo"}
DEFAULTS = {"gpus": "2", "node_selector": {}, "tolerations": []}


def pods(text: str, **parameters: Any) -> dict[str, Pod]:
    """The pod of each step of compiled YAML, by its executor's label.

    Args:
        text: the compiled YAML.
        parameters: of the run, as far as Kubernetes sees them: gpus, node_selector, tolerations.
    """
    compiled = Compiled.parse(text)
    given = {**DEFAULTS, **parameters}
    return {
        label: _pod(label, executor.container, compiled.pods[label], given)
        for label, executor in compiled.executors.items()
    }


def _pod(label: str, container: Any, config: Any, given: dict[str, Any]) -> Pod:
    argo = {
        "image": "quay.io/argoproj/argoexec:v4.0.5",
        "securityContext": {**LOCKED, "runAsNonRoot": True, "runAsUser": 65532},
        "volumeMounts": _mounts({"var-run-argo": "/var/run/argo"}),
    }
    launcher = {
        "name": "kfp-launcher",
        "image": "ghcr.io/kubeflow/kfp-launcher:2.17.0",
        "command": ["launcher-v2", "--copy", "/kfp-launcher/launch"],
        "securityContext": {**LOCKED, "runAsNonRoot": True},
        "volumeMounts": _mounts({"kfp-launcher": "/kfp-launcher"}),
    }
    main = {
        "name": "main",
        "image": container.image,
        "command": ["/var/run/argo/argoexec", "emissary", "--", "/kfp-launcher/launch"],
        "args": [*container.command, *container.args],
        "env": _env(container, config),
        "envFrom": [{"configMapRef": {"name": "metadata-grpc-configmap", "optional": True}}],
        "resources": _resources(container.resources, given),
        "securityContext": _security(config.security_context),
        "volumeMounts": _mounts({**SCRATCH, "var-run-argo": "/var/run/argo"}) + _own_mounts(config),
    }
    spec: Pod = {
        "restartPolicy": "Never",
        "serviceAccountName": "landseg",
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [{"name": "init", "command": ["argoexec", "init"], **argo}, launcher],
        "containers": [{"name": "wait", "command": ["argoexec", "wait"], **argo}, main],
        "volumes": [{"name": name, "emptyDir": {}} for name in (*SCRATCH, *ARGO)] + _own_volumes(config),
        "activeDeadlineSeconds": config.active_deadline_seconds,
        "nodeSelector": dict(config.node_selector.labels),
        "tolerations": [],
        "imagePullSecrets": [{"name": one.secret_name} for one in config.image_pull_secret],
    }
    if config.node_selector.HasField("node_selector_json"):
        spec["nodeSelector"] = given["node_selector"]
    for one in config.tolerations:
        if one.HasField("toleration_json"):
            spec["tolerations"] += given["tolerations"]
        else:
            spec["tolerations"].append({"key": one.key, "operator": one.operator, "effect": one.effect})
    labels = {**config.pod_metadata.labels, "pipelines.kubeflow.org/v2_component": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": label.removeprefix("exec-"), "labels": labels},
        "spec": spec,
    }


def _security(asked: Any) -> dict[str, Any]:
    """The template's, with what the task asks for in addition."""
    names = {"run_as_user": "runAsUser", "run_as_group": "runAsGroup", "run_as_non_root": "runAsNonRoot"}
    return {**LOCKED, **{name: getattr(asked, key) for key, name in names.items() if asked.HasField(key)}}


def _resources(asked: Any, given: dict[str, Any]) -> dict[str, Any]:
    limits = {"cpu": asked.resource_cpu_limit, "memory": asked.resource_memory_limit}
    requests = {"cpu": asked.resource_cpu_request, "memory": asked.resource_memory_request}
    if asked.HasField("accelerator"):
        count = asked.accelerator.resource_count
        limits[asked.accelerator.resource_type] = given["gpus"] if count.startswith("{{") else count
    return {
        "limits": {key: value for key, value in limits.items() if value},
        "requests": {key: value for key, value in requests.items() if value},
    }


def _env(container: Any, config: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": one.name, "value": one.value} for one in container.env]
    for kind, sources, key in (
        ("secretKeyRef", config.secret_as_env, "secret"),
        ("configMapKeyRef", config.config_map_as_env, "config_map"),
    ):
        for source in sources:
            name = getattr(source, f"{key}_name")
            for pair in source.key_to_env:
                reference = {"name": name, "key": getattr(pair, f"{key}_key"), "optional": source.optional}
                found.append({"name": pair.env_var, "valueFrom": {kind: reference}})
    return found


def _mounts(paths: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "mountPath": path} for name, path in paths.items()]


def _own_mounts(config: Any) -> list[dict[str, str]]:
    volumes = {one.volume_name: one.mount_path for one in (*config.empty_dir_mounts, *config.generic_ephemeral_volume)}
    return _mounts(volumes | {one.config_map_name: one.mount_path for one in config.config_map_as_volume})


def _own_volumes(config: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": one.volume_name, "emptyDir": {"medium": one.medium, "sizeLimit": one.size_limit}}
        for one in config.empty_dir_mounts
    ]
    for one in config.generic_ephemeral_volume:
        claim: dict[str, Any] = {
            "accessModes": list(one.access_modes),
            "resources": {"requests": {"storage": one.size}},
        }
        if not one.default_storage_class:
            claim["storageClassName"] = one.storage_class_name
        found.append({"name": one.volume_name, "ephemeral": {"volumeClaimTemplate": {"spec": claim}}})
    for one in config.config_map_as_volume:
        source = {"name": one.config_map_name, "optional": one.optional}
        found.append({"name": one.config_map_name, "configMap": source})
    return found
