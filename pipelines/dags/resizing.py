"""Compiled YAML whose steps request what a cluster's sizes say (:mod:`pipelines.dags.sizes`).

KFP takes hardly any of it as a parameter of a run, so the YAML is changed before it is submitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from pipelines.dags import step_limits
from pipelines.dags.scheduling import QUEUEING_S
from pipelines.dags.sizes import Settings
from pipelines.dags.step_limits import SCRATCH_VARIABLE

_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def resize(package: str, settings: Settings) -> str:
    """Compiled YAML whose steps request what settings say; without settings, the very same text."""
    if not settings:
        return package
    spec, platform = yaml.safe_load_all(package)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container, pod = executor["container"], pods[name]
        wanted = _of_step(settings, container["command"][1], has_gpus="accelerator" in container["resources"])
        for key, value in wanted.items():
            if key in _RESOURCES:
                _RESOURCES[key](container["resources"], value)
            elif key in _POD:
                _POD[key](pod, value)
        _fit_scratch(container, pod, wanted)
        if "attempts" in wanted:
            container["args"][container["args"].index("--attempts") + 1] = str(wanted["attempts"])
        _fit_retries(spec, name, int(pod["activeDeadlineSeconds"]), wanted.get("retries"))
    step_limits.tell(spec, platform)
    return yaml.safe_dump_all([spec, platform], sort_keys=False)


def _of_step(settings: Settings, step: str, *, has_gpus: bool) -> dict[str, Any]:
    groups = ("all", "gpu" if has_gpus else "cpu", step)
    wanted = {key: value for group in groups for key, value in settings.get(group, {}).items()}
    if has_gpus:
        # Those of steps with GPUs are parameters of the run.
        return {key: value for key, value in wanted.items() if key not in ("node_selector", "tolerations")}
    return {key: value for key, value in wanted.items() if key not in ("gpu_resource", "shm")}


def _set_cpu(resources: dict[str, Any], value: str) -> None:
    resources["resourceCpuRequest"] = value
    resources.pop("cpuRequest", None)  # KFP's older field of the same meaning
    if _cpus(value) > _cpus(resources["resourceCpuLimit"]):
        _set_cpu_limit(resources, value)


def _set_cpu_limit(resources: dict[str, Any], value: str) -> None:
    resources["resourceCpuLimit"] = value
    resources.pop("cpuLimit", None)
    if _cpus(resources["resourceCpuRequest"]) > _cpus(value):
        _set_cpu(resources, value)


def _cpus(value: str) -> float:
    return float(value.removesuffix("m")) / 1000 if value.endswith("m") else float(value)


def _set_memory(resources: dict[str, Any], value: str) -> None:
    resources["resourceMemoryRequest"] = resources["resourceMemoryLimit"] = value
    for older in ("memoryRequest", "memoryLimit"):
        resources.pop(older, None)


def _set_gpu_resource(resources: dict[str, Any], value: str) -> None:
    resources["accelerator"] |= {"resourceType": value, "type": value}


_RESOURCES: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "cpu": _set_cpu,
    "cpu_limit": _set_cpu_limit,
    "memory": _set_memory,
    "gpu_resource": _set_gpu_resource,
}


def _set_shm(pod: dict[str, Any], value: str) -> None:
    for mount in pod["emptyDirMounts"]:
        if mount["mountPath"] == "/dev/shm":
            mount["sizeLimit"] = value


def _set_timeout(pod: dict[str, Any], value: int) -> None:
    pod["activeDeadlineSeconds"] = str(value)


def _set_node_selector(pod: dict[str, Any], value: dict[str, str]) -> None:
    pod["nodeSelector"] = {"labels": value}


def _set_tolerations(pod: dict[str, Any], value: list[dict[str, Any]]) -> None:
    pod["tolerations"] = value


def _set_labels(pod: dict[str, Any], value: dict[str, str]) -> None:
    pod.setdefault("podMetadata", {}).setdefault("labels", {}).update(value)


def _set_pull_secret(pod: dict[str, Any], value: str) -> None:
    pod["imagePullSecret"] = [{"secretName": value, "secretNameParameter": {"runtimeValue": {"constant": value}}}]


_POD: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "shm": _set_shm,
    "timeout": _set_timeout,
    "node_selector": _set_node_selector,
    "tolerations": _set_tolerations,
    "labels": _set_labels,
    "pull_secret": _set_pull_secret,
}


def _fit_scratch(container: dict[str, Any], pod: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Size and kind of the volume at /tmp, and what the stage is told of its size."""
    (mount,) = [one for one in pod["emptyDirMounts"] if one["mountPath"] == "/tmp"]
    if "scratch" in wanted:
        mount["sizeLimit"] = wanted["scratch"]
        size = wanted["scratch"]
        (told,) = [one for one in container["env"] if one["name"] == SCRATCH_VARIABLE]
        told["value"] = str(int(size[:-2]) * _UNITS[size[-2:]])
    if name := wanted.get("scratch_class"):
        pod["emptyDirMounts"].remove(mount)
        claim = {
            "volumeName": "scratch",
            "mountPath": "/tmp",
            "accessModes": ["ReadWriteOnce"],
            "size": mount["sizeLimit"],
        }
        kind = {"defaultStorageClass": True} if name == "default" else {"storageClassName": name}
        pod["genericEphemeralVolume"] = [claim | kind]


def _fit_retries(spec: dict[str, Any], executor: str, timeout_s: int, retries: int | None) -> None:
    """The number of retries, and how long they may take: every attempt at its longest, and a week of queueing."""
    components = spec["components"]
    dags = [spec["root"]["dag"], *(one["dag"] for one in components.values() if "dag" in one)]
    for task in (task for dag in dags for task in dag["tasks"].values()):
        if components[task["componentRef"]["name"]].get("executorLabel") == executor:
            policy = task["retryPolicy"]
            if retries is not None:
                policy["maxRetryCount"] = retries
            policy["backoffMaxDuration"] = f"{(policy['maxRetryCount'] + 1) * timeout_s + QUEUEING_S}s"
