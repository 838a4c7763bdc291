"""The parameters of the stages (parameters.toml), as flags of the command line."""

from __future__ import annotations

import argparse
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from landseg.contracts.errors import ConfigError

TABLE = Path(__file__).with_name("parameters.toml")


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


_TYPES: dict[str, dict[str, Any]] = {
    "str": {},
    "int": {"type": int},
    "float": {"type": float},
    "bool": {"type": _bool, "nargs": "?", "const": True, "metavar": "true|false"},
    "dict": {"nargs": "+", "action": "extend"},
}


class Group(Protocol):
    """A parser, or a group of its flags."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add a flag."""


@dataclass(frozen=True)
class Parameter:
    """One entry of the table, as far as it concerns the command line; parameters.toml explains the fields."""

    name: str
    type: str
    help: str
    verbs: tuple[str, ...]
    pipelines: tuple[str, ...]
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    pattern: str = ""
    expected: str = ""
    each_of: tuple[str, ...] = ()
    requires: Mapping[str, Mapping[str, list[str]]] | None = None
    flag: str = ""
    metavar: str | None = None
    unset: str | None = None
    repeatable: bool = False
    required_in: tuple[str, ...] = ()
    required: bool = False

    @property
    def option(self) -> str:
        """The flag with its dashes."""
        return f"--{(self.flag or self.name).replace('_', '-')}"


@functools.cache
def parameters() -> dict[str, Parameter]:
    """Every parameter by name."""
    known = {field.name for field in fields(Parameter)}
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: _parameter(name, {key: entry[key] for key in entry.keys() & known}) for name, entry in table.items()}


def of_verb(verb: str) -> list[Parameter]:
    """The parameters that a verb has as flags."""
    return [parameter for parameter in parameters().values() if verb in parameter.verbs]


def add_parameter(group: Group, name: str) -> None:
    """Add a parameter's flag.

    Args:
        group: the parser, or a group of its flags.
        name: the parameter's name in the table.
    """
    parameter = parameters()[name]
    options: dict[str, Any] = {"help": parameter.help, **_TYPES[parameter.type]}
    if parameter.choices:
        options["choices"] = parameter.choices
    if parameter.metavar:
        options["metavar"] = parameter.metavar
    if parameter.required:
        options["required"] = True
    elif parameter.repeatable:
        options |= {"action": "append", "default": [], "help": f"{parameter.help}; repeatable"}
    elif parameter.unset is None:
        options["default"] = [] if parameter.type == "dict" else parameter.default
    elif parameter.unset:
        options["help"] = f"{parameter.help} (default: {parameter.unset})"
    group.add_argument(parameter.option, **options)


def split_list(text: str) -> list[str]:
    """The names in a list that is separated by commas; spaces around them, and empty ones, do not count."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_values(verb: str, args: argparse.Namespace) -> None:
    """Refuse what the table does not allow: `make submit` refuses the same (pipelines/arguments.py).

    Raises:
        ConfigError: a parameter of the verb has a value that it cannot have, or not together with another's.
    """
    values = {one.name: getattr(args, one.option[2:].replace("-", "_")) for one in of_verb(verb)}
    for name, value in values.items():
        parameter = parameters()[name]
        if value is not None and not parameter.repeatable:
            _check_value(parameter, value)
        for other, allowed in (parameter.requires or {}).get(str(value), {}).items():
            if values[other] not in allowed:
                needed = " or ".join(allowed)
                problem = f"expected {parameters()[other].option} {needed} with it, found {values[other]}"
                raise ConfigError(f"{parameter.option} {value}", problem)


def check_value(name: str, value: Any) -> None:
    """Refuse a value of one parameter that the table does not allow.

    Raises:
        ConfigError: as :func:`check_values`.
    """
    _check_value(parameters()[name], value)


def _check_value(parameter: Parameter, value: Any) -> None:
    if parameter.minimum is not None and value < parameter.minimum:
        raise ConfigError(parameter.option, f"expected at least {parameter.minimum:g}, found {value}")
    if parameter.maximum is not None and value > parameter.maximum:
        raise ConfigError(parameter.option, f"expected at most {parameter.maximum:g}, found {value}")
    if parameter.pattern and not re.fullmatch(parameter.pattern, value):
        raise ConfigError(parameter.option, f"expected {parameter.expected}, found {value!r}")
    if parameter.each_of:
        names = split_list(value)
        different = len(set(names)) == len(names)
        if not different or not set(names) <= set(parameter.each_of) or (parameter.default and not names):
            problem = f"expected different ones of {', '.join(parameter.each_of)}, separated by commas, found {value!r}"
            raise ConfigError(parameter.option, problem)


def _parameter(name: str, entry: dict[str, Any]) -> Parameter:
    required = "default" not in entry or "flag" in entry.get("required_in", ())
    lists = {key: tuple(value) for key, value in entry.items() if key != "default" and isinstance(value, list)}
    return Parameter(name=name, required=required, **{**entry, **lists})
