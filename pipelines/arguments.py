"""Parameters of a compiled pipeline, given as `NAME=VALUE`."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from components.models import MODELS
from components.parameters import Parameter, parameters
from pipelines.errors import UserError
from pipelines.placement import check_node_selector, check_tolerations

_USER_INFO = re.compile(r"://[^/\s:@]*:(?!\d+/)[^\s@]*@|://[^/\s:@]+@")
_KINDS = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "STRUCT": "a JSON object",
    "LIST": "a JSON list",
}
_PLACEMENT: dict[str, Callable[[Any], None]] = {"node_selector": check_node_selector, "tolerations": check_tolerations}

_LARGEST = 2**53
"""KFP keeps every number as a double, which holds no larger whole number exactly."""


def parse_parameters(package: Path, given: list[str]) -> dict[str, Any]:
    """Parse parameters against what the pipeline declares.

    Args:
        package: the compiled YAML.
        given: `NAME=VALUE` each.

    Raises:
        UserError: the YAML cannot be read; a parameter is unknown, missing, not of its type, or not what the table of
            parameters allows.
    """
    try:
        spec = next(yaml.safe_load_all(package.read_text()))
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    except (OSError, yaml.YAMLError, StopIteration, TypeError, KeyError) as err:
        raise UserError(f"{package}: expected a compiled pipeline, found none ({type(err).__name__})") from err
    values = {}
    for pair in given:
        name, separator, text = pair.partition("=")
        if not separator:
            raise UserError(f"--param {pair}: expected NAME=VALUE")
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(declared)}"
            raise UserError(f"--param {name}: {package.stem} has no such parameter, {hint}")
        if _USER_INFO.search(text):  # not repeated here; a run's parameters are stored and shown by KFP
            raise UserError(f"--param {name}: found a name and password in an address; they belong in the secret")
        if name in values:
            raise UserError(f"--param {name}: expected it once, found it twice")
        values[name] = _value(name, text, declared[name]["parameterType"])
        if not declared[name].get("isOptional") and not text.strip(" ,"):
            raise UserError(f"--param {name}: expected a value, found none ({_by_own_name()[name].help})")
        _check(name, values[name])
    for name, value in values.items():
        _check_others(name, value, declared, values)
    missing = [name for name, spec in declared.items() if not spec.get("isOptional") and name not in values]
    if missing:
        raise UserError(f"{package.stem} needs --param {' --param '.join(f'{name}=…' for name in missing)}")
    return values


def _check(name: str, value: Any) -> None:
    """Refuse what the stage would refuse, hours later (landseg.contracts.parameters.check_values)."""
    known = _by_own_name().get(name)
    if known is None:
        return
    if check := _PLACEMENT.get(name):
        try:
            check(value)
        except ValueError as err:
            raise UserError(f"--param {name}: {err}") from None
    if known.choices and value not in known.choices:
        raise UserError(f"--param {name}: expected one of {', '.join(known.choices)}, found {value!r}")
    if known.kfp_type and known.type == "int":
        if not re.fullmatch(r"[0-9]+", str(value)):
            raise UserError(f"--param {name}: expected {_KINDS['NUMBER_INTEGER']}, found {value!r}")
        value = int(value)
    if isinstance(value, int) and value > _LARGEST:
        raise UserError(f"--param {name}: expected at most {_LARGEST}, found {value}")
    if known.minimum is not None and value < known.minimum:
        raise UserError(f"--param {name}: expected at least {known.minimum:g}, found {value}")
    if known.maximum is not None and value > known.maximum:
        raise UserError(f"--param {name}: expected at most {known.maximum:g}, found {value}")
    if known.pattern and not re.fullmatch(known.pattern, value):
        raise UserError(f"--param {name}: expected {known.expected}, found {value!r}")
    if known.each_of:
        names = [item.strip() for item in value.split(",") if item.strip()]
        different = len(set(names)) == len(names)
        if not different or not set(names) <= set(known.each_of) or (known.default and not names):
            listed = ", ".join(known.each_of)
            raise UserError(
                f"--param {name}: expected different ones of {listed}, separated by commas, found {value!r}"
            )


def _check_others(name: str, value: Any, declared: dict[str, Any], values: dict[str, Any]) -> None:
    """Refuse a value that does not go with another parameter's, given or by default."""
    known = _by_own_name().get(name)
    for other, allowed in ((known and known.requires) or {}).get(str(value), {}).items():
        found = values.get(other, declared[other].get("defaultValue"))
        if found not in allowed:
            raise UserError(f"--param {name}={value}: expected {other}={' or '.join(allowed)} with it, found {found}")
    _check_training(name, value, values)
    if name == "weights" and value == "auto":
        splits = values.get("splits", declared.get("splits", {}).get("defaultValue", "val"))
        if "val" not in [item.strip() for item in splits.split(",")]:
            raise UserError(f"--param weights=auto: expected val among the splits, found splits={splits}")
    if name == "weights" and re.match(r"[ .0-9]", value):
        listed = next((key for key in ("probs_uris", "model_uris") if key in declared), "")
        uris = values.get(listed, declared[listed].get("defaultValue", "")) if listed else ""
        expected = uris.count(",") + 1 if listed else len(MODELS)
        if (found := value.count(",") + 1) != expected:
            raise UserError(f"--param weights: expected {expected} numbers, one per model, found {found}")


def _check_training(name: str, value: Any, values: dict[str, Any]) -> None:
    """Refuse what train would: a training that goes on has weights of its own."""
    start = f"{name.removesuffix('resume_from')}pretrained"
    if name.endswith("resume_from") and value and values.get(start):
        raise UserError(f"--param {name}: expected no {start} with it, found {values[start]!r}")


def _by_own_name() -> dict[str, Parameter]:
    """The table of parameters, by the names that components and pipelines give them."""
    own = dict(parameters())
    for one in parameters().values():
        own |= {one.in_pipeline(model): one for model in ("", *MODELS)}
    return own


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "STRING":
        return text
    error = UserError(f"--param {name}: expected {_KINDS.get(kind, kind)}, found {text!r}")
    types = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool, "STRUCT": dict, "LIST": list}
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except ValueError:
        raise error from None
    if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):  # type: ignore[arg-type]
        raise error
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large for a number")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
