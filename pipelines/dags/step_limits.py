"""What each step of a pipeline may use, told to the steps that plan its work (landseg.stages.shared.step_limits)."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

SCRATCH_VARIABLE = "LANDSEG_SCRATCH_BYTES"
"""The size of a step's own scratch volume: from inside, an emptyDir looks as large as the node's disk."""
LIMITS_VARIABLE = "LANDSEG_STEP_LIMITS"
"""`STEP.scratch_bytes=N STEP.timeout_s=N …`, of every step: without braces, which KFP and Argo would look into."""
LIMITS = (SCRATCH_VARIABLE, LIMITS_VARIABLE)
"""What holds for pods alone."""
_PLANNING = ("stage-data", "train", "plan-export", "plan-average")
"""The steps that find out how much work there is."""


class Limits(NamedTuple):
    """What a step may use: the size of its scratch volume, and the time after which it ends."""

    scratch_bytes: int
    timeout_s: int


def limits_of(package: str) -> dict[str, Limits]:
    """What each step of a compiled pipeline may use; of several pods, the least."""
    spec, platform = yaml.safe_load_all(package)
    return _limits(spec, platform)


def tell(spec: dict[str, Any], platform: dict[str, Any]) -> None:
    """Tell the steps of a compiled pipeline that plan work what every step may use, in place of what they were told."""
    limits = sorted(_limits(spec, platform).items())
    text = " ".join(f"{step}.{name}={value}" for step, own in limits for name, value in own._asdict().items())
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        if container["command"][1] in _PLANNING:
            others = [entry for entry in container["env"] if entry["name"] != LIMITS_VARIABLE]
            container["env"] = [*others, {"name": LIMITS_VARIABLE, "value": text}]


def told(package: str) -> str:
    """Compiled YAML of a pipeline, with :func:`tell` done."""
    comments = "".join(line for line in package.splitlines(keepends=True) if line.startswith("#"))
    spec, platform = yaml.safe_load_all(package)
    tell(spec, platform)
    return comments + yaml.safe_dump_all([spec, platform], sort_keys=False)


def _limits(spec: dict[str, Any], platform: dict[str, Any]) -> dict[str, Limits]:
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    limits: dict[str, Limits] = {}
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        (size,) = [entry["value"] for entry in container["env"] if entry["name"] == SCRATCH_VARIABLE]
        own = Limits(int(size), int(pods[name]["activeDeadlineSeconds"]))
        others = limits.setdefault(container["command"][1], own)
        limits[container["command"][1]] = Limits(*map(min, own, others))
    return limits
