"""The parameters of the stages (src/landseg/contracts/parameters.toml), as components and pipelines declare them."""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from components.images import ROOT

TABLE = ROOT / "src" / "landseg" / "contracts" / "parameters.toml"

REQUIRED = inspect.Parameter.empty
"""In place of a default."""

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict, "list": list}


@dataclass(frozen=True)
class Parameter:
    """One entry of the table, as far as it concerns KFP; parameters.toml explains the fields."""

    name: str
    type: str
    help: str
    verbs: tuple[str, ...]
    components: tuple[str, ...]
    pipelines: tuple[str, ...]
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()
    flag: str = ""
    required_in: tuple[str, ...] = ()
    per_model: tuple[str, ...] = ()
    pipeline_name: str = ""
    defaults_in: Mapping[str, Any] | None = None
    kfp_type: str = ""
    minimum: float | None = None
    maximum: float | None = None
    pattern: str = ""
    expected: str = ""
    each_of: tuple[str, ...] = ()
    requires: Mapping[str, Mapping[str, list[str]]] | None = None

    @property
    def option(self) -> str:
        """The flag with its dashes; empty where no verb has one."""
        return f"--{(self.flag or self.name).replace('_', '-')}" if self.verbs else ""

    @property
    def description(self) -> str:
        """The help, with the choices that it does not explain."""
        explained = all(f"{choice}: " in self.help for choice in self.choices)
        return self.help if explained else f"{self.help} ({', '.join(self.choices)})"

    def default_for(self, model: str = "", pipeline: str = "") -> Any:
        """The default, or `REQUIRED`.

        Args:
            model: the model that it belongs to, where it belongs to one.
            pipeline: the pipeline; empty for a component.
        """
        if pipeline in self.required_in:
            return REQUIRED
        default = (self.defaults_in or {}).get(pipeline, self.default)
        if self.kfp_type == "str" and default is not REQUIRED:
            return str(default)
        return default.replace("{model}", model) if isinstance(default, str) else default

    def in_pipeline(self, model: str = "") -> str:
        """The name that a pipeline gives it; with a model, that of this model's own."""
        name = self.pipeline_name or self.name
        return f"{model}_{name}" if model and self.per_model else name

    def declared(self, name: str, default: Any) -> inspect.Parameter:
        """As a parameter of a function, which is where KFP reads it from."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Parameter(name, kind, default=default, annotation=_TYPES[self.kfp_type or self.type])


@functools.cache
def parameters() -> dict[str, Parameter]:
    """Every parameter by name."""
    known = {field.name for field in fields(Parameter)}
    found = {}
    for name, entry in tomllib.loads(TABLE.read_text(encoding="utf-8")).items():
        values = {"components": entry["verbs"], **{key: entry[key] for key in entry.keys() & known}}
        lists = {key: tuple(value) for key, value in values.items() if key != "default" and isinstance(value, list)}
        found[name] = Parameter(name=name, **{**values, **lists})
    return found


def of_component(stage: str) -> list[Parameter]:
    """The parameters that a stage's component has."""
    return [parameter for parameter in parameters().values() if stage in parameter.components]


def placement() -> list[Parameter]:
    """The parameters that no stage has: where KFP starts the pods of steps with GPUs."""
    return [parameter for parameter in parameters().values() if not parameter.components]


def declare(
    function: Callable[..., Any],
    name: str,
    summary: str,
    declared: Iterable[tuple[inspect.Parameter, str]],
    returns: Any = inspect.Signature.empty,
) -> None:
    """Give a function the signature and docstring that KFP is to read from it.

    Args:
        function: takes its arguments by position; :func:`bound` gives their names.
        name: of the function.
        summary: what it does, in one line.
        declared: its parameters and what each of them is; those without a default are put first.
        returns: annotation of what it returns.
    """
    ordered = sorted(declared, key=lambda item: item[0].default is not REQUIRED)
    function.__name__ = name
    lines = [summary, "", "Args:", *(f"    {parameter.name}: {text}." for parameter, text in ordered)]
    function.__doc__ = "\n".join(lines)
    signature = inspect.Signature([parameter for parameter, _ in ordered], return_annotation=returns)
    vars(function)["__signature__"] = signature


def bound(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments that KFP calls a declared function with, by name."""
    return dict(inspect.signature(function).bind(*arguments).arguments)
