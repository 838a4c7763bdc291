"""What steps request on one cluster, in place of what `scheduling.py` says: options of compiling and submitting.

KFP takes hardly any of it as a parameter of a run. So compiled YAML is changed before it is submitted, by settings such
as `train.memory=48Gi`; a TOML file holds a cluster's (`manifests/overlays/single-node/sizes.toml`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from components.images import ROOT
from pipelines.dags import step_limits
from pipelines.dags.scheduling import QUEUEING_S
from pipelines.dags.step_limits import SCRATCH_VARIABLE
from pipelines.errors import UserError
from pipelines.placement import check_node_selector, check_tolerations

STEPS = ("plan-stage", "stage-data", "train", "plan-export", "export-probs", "plan-average", "average-probs")
GROUPS = ("all", "cpu", "gpu")
"""All steps, those without GPUs and those with them; a step's own setting counts more, and one of `all` least."""

Settings = dict[str, dict[str, Any]]
"""By step or group: what it has by name."""

_MAX_CHARS = 1 << 20
_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read(source: str, given: list[str]) -> Settings:
    """Read settings.

    Args:
        source: a TOML file, or the name of an overlay that has one; empty for none.
        given: `STEP.NAME=VALUE` each, which replace those of the file.

    Raises:
        UserError: there is no such file, step or name, or a value is not what its name takes.
    """
    settings: Settings = {}
    if source:
        path = ROOT / "manifests" / "overlays" / source / "sizes.toml"
        path = path if "/" not in source and path.is_file() else Path(source)
        try:
            settings = tomllib.loads(_text(path))
        except (OSError, ValueError) as err:
            known = sorted(file.parent.name for file in (ROOT / "manifests" / "overlays").glob("*/sizes.toml"))
            raise UserError(
                f"SIZES: expected a TOML file, or one of {', '.join(known)}, found {source!r}: {err}"
            ) from err
    for pair in given:
        where, separator, text = pair.partition("=")
        step, dot, name = where.partition(".")
        if not separator or not dot:
            raise UserError(f"SET: expected STEP.NAME=VALUE, found {pair!r}")
        settings = {**settings, step: {**_table(settings, step), name: text}}
    return {step: _checked(step, _table(settings, step)) for step in settings}


def _text(path: Path) -> str:
    """A file's content; a pipe would be waited for, a device has no end."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open(encoding="utf-8") as file:
        text = file.read(_MAX_CHARS + 1)
    if len(text) > _MAX_CHARS:
        raise ValueError(f"it is longer than {_MAX_CHARS} characters")
    return text


def apply(package: str, settings: Settings) -> str:
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


def _table(settings: Settings, step: str) -> dict[str, Any]:
    table = settings.get(step, {})
    if step not in (*STEPS, *GROUPS) or not isinstance(table, dict):
        raise UserError(f"SIZES: expected one of {', '.join((*GROUPS, *STEPS))}, found {step!r}")
    return table


def _checked(step: str, table: dict[str, Any]) -> dict[str, Any]:
    checked = {}
    for name, value in table.items():
        if name not in _KINDS:
            raise UserError(f"SIZES: {step} has no {name!r}, expected one of {', '.join(_KINDS)}")
        expected, read = _KINDS[name]
        try:
            checked[name] = read(value)
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"SIZES: {step}.{name}: expected {expected}, found {value!r}") from None
    placed = {"node_selector", "tolerations"} & checked.keys()
    if placed and step in ("gpu", "train", "export-probs"):
        name = min(placed)
        raise UserError(f"SIZES: {step}.{name}: steps with GPUs have it as a parameter: PARAMS='{name}=…'")
    return checked


def _matching(pattern: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not re.fullmatch(pattern, str(value)):
            raise ValueError
        return str(value)

    return read


def _seconds(value: Any) -> int:
    number, unit = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(value)).groups()  # type: ignore[union-attr]
    return int(number) * _SECONDS[unit]


def _count(value: Any) -> int:
    if not 0 <= int(value) <= 100:
        raise ValueError
    return int(value)


def _attempts(value: Any) -> int:
    if not 1 <= int(value) <= 20:
        raise ValueError
    return int(value)


def _labels(value: Any) -> dict[str, str]:
    found = json.loads(value) if isinstance(value, str) else value
    return {str(key): str(text) for key, text in found.items()}


def _tolerations(value: Any) -> list[dict[str, Any]]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise ValueError
    check_tolerations(found)
    return found


def _node_selector(value: Any) -> dict[str, str]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise ValueError
    check_node_selector(found)
    return found


_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "cpu": ("a number of CPUs, such as 2 or 500m", _matching(r"[1-9][0-9]*m?|[0-9]+\.[0-9]+")),
    "cpu_limit": ("a number of CPUs, such as 2 or 500m", _matching(r"[1-9][0-9]*m?|[0-9]+\.[0-9]+")),
    "memory": ("a size such as 8Gi", _matching(r"[1-9][0-9]*(Mi|Gi|Ti)")),
    "shm": ("a size such as 8Gi", _matching(r"[1-9][0-9]*(Mi|Gi|Ti)")),
    "scratch": ("a size such as 100Gi", _matching(r"[1-9][0-9]*(Mi|Gi|Ti)")),
    "scratch_class": ("the name of a StorageClass, or default", _matching(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")),
    "timeout": ("a time such as 90m or 12h", _seconds),
    "retries": ("a whole number up to 100", _count),
    "attempts": ("a whole number from 1 to 20", _attempts),
    "gpu_resource": (
        "a resource such as nvidia.com/mig-3g.40gb or amd.com/gpu",
        _matching(r"[a-z0-9.-]+/[A-Za-z0-9._-]+"),
    ),
    "node_selector": ('labels such as {"pool": "cpu"}', _node_selector),
    "tolerations": ('a list such as [{"key": "pool", "operator": "Exists"}]', _tolerations),
    "labels": ('labels of the pods such as {"kueue.x-k8s.io/priority-class": "high"}', _labels),
    "pull_secret": ("the name of a secret", _matching(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")),
}


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
