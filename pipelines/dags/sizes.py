"""What steps request on one cluster, in place of what `scheduling.py` says: options of compiling and submitting.

Settings are given as `train.memory=48Gi`; a TOML file holds a cluster's (`manifests/overlays/single-node/sizes.toml`).
:mod:`pipelines.dags.resizing` changes compiled YAML by them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.images import ROOT
from pipelines.errors import UserError
from pipelines.placement import check_node_selector, check_tolerations

STEPS = ("plan-stage", "stage-data", "train", "plan-export", "export-probs", "plan-average", "average-probs")
GROUPS = ("all", "cpu", "gpu")
"""All steps, those without GPUs and those with them; a step's own setting counts more, and one of `all` least."""

Settings = dict[str, dict[str, Any]]
"""By step or group: what it has by name."""

_MAX_CHARS = 1 << 20
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
