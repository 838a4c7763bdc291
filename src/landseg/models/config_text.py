"""A config as text: written so that it reads back as it was, and read without being run.

The text is Python, as mmcv writes it, and stock mmcv loads it. mmcv's own `pretty_text` does not escape strings.
"""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import mmcv
import numpy as np

from landseg.contracts.errors import ConfigError, ContractError, without_credentials

MAX_TEXT_BYTES = 1 << 20
MAX_DEPTH = 64
"""Of containers in containers."""
_WIDTH = 100
_SCALARS = (bool, int, float, str, bytes, type(None))


def config_text(config: mmcv.Config) -> str:
    """A config as Python assignments; :func:`parse_config` reads the same config back.

    `range`, numpy values and paths become lists, numbers and texts. What a config file has only imported or defined
    (classes, functions) is left out.

    Raises:
        ConfigError: a value cannot be written as text, or the text is longer than 1 MiB.
    """
    lines = []
    for key, value in config._cfg_dict.items():
        if isinstance(value, type) or (callable(value) and not isinstance(value, Mapping)):
            continue
        if not _is_name(key):
            raise ConfigError(
                f"config, {str(key)[:80]!r}", "expected a name (letters, digits, '_') at the top of a config"
            )
        lines.append(f"{key} = {_text(plain(value, str(key)), 0, len(key) + 3)}\n")
    text = "".join(lines)
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise ConfigError("config", f"expected at most {MAX_TEXT_BYTES >> 20} MiB of text, found {len(text) >> 10} KiB")
    return text


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """A value as plain Python: dictionaries, lists, tuples, numbers, texts, None.

    Raises:
        ConfigError: it is of another kind; `where` is its key.
    """
    if depth > MAX_DEPTH:
        raise ConfigError(where, f"expected values nested at most {MAX_DEPTH} deep")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 1024:
        raise ConfigError(where, "expected a number below 2 to the power of 1024")
    if isinstance(value, bool | bytes | None):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)  # of a subclass, its plain value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), where, depth + 1)
    if isinstance(value, Mapping):
        if not all(isinstance(key, _SCALARS) for key in value):
            raise ConfigError(where, "expected texts and numbers for keys")
        return {key: plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | range):
        return [plain(item, f"{where}.{index}", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(plain(item, f"{where}.{index}", depth + 1) for index, item in enumerate(value))
    if isinstance(value, set | frozenset):
        return {plain(item, where, depth + 1) for item in value}
    raise ConfigError(where, f"expected a plain value, found a {type(value).__name__}", "write names, not objects")


def masked_config(config: mmcv.Config) -> mmcv.Config:
    """A copy of a config without the credentials and signatures in its addresses."""
    return mmcv.Config({key: _masked(value) for key, value in config._cfg_dict.items()})


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_masked(item) for item in value)
    return value


def parse_config(text: str, where: object) -> mmcv.Config:
    """Parse what :func:`config_text` or `mmcv.Config.pretty_text` wrote; nothing in it is executed.

    Raises:
        ContractError: the text is more than assignments of plain values, or too long.
        ConfigError: it is not a config of mmsegmentation 0.x.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ContractError(
            where,
            f"expected the text of an mmseg config, at most {MAX_TEXT_BYTES >> 20} MiB, found {len(text) >> 10} KiB",
        )
    try:
        values = {}
        for node in ast.parse(text).body:
            if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
                raise ValueError(f"line {node.lineno} is not an assignment")
            values[node.targets[0].id] = _plain(node.value)
        config = mmcv.Config(values)
    except SyntaxError as err:
        raise ContractError(
            where, f"expected the text of an mmseg config, found something else: {err.msg} in line {err.lineno}"
        ) from err
    except Exception as err:  # RecursionError and MemoryError among them: Python's parser has limits of its own
        reason = str(err) if isinstance(err, ValueError) else "it is nested too deeply or malformed"
        raise ContractError(where, f"expected the text of an mmseg config, found something else: {reason}") from err
    check_version(config, where)
    return config


def check_version(config: mmcv.Config, where: object) -> None:
    """Refuse what is not a config of mmsegmentation 0.x.

    Raises:
        ConfigError: it has no model, or is one of mmsegmentation 1.x.
    """
    model = config.get("model")
    if (isinstance(model, dict) and "data_preprocessor" in model) or {"train_dataloader", "default_scope"} & {*config}:
        raise other_version(where)
    if not isinstance(model, dict) or "type" not in model:
        raise ConfigError(where, "expected a config of mmsegmentation 0.x with a `model`, found none")


def other_version(where: object) -> ConfigError:
    """The error to raise for a config of mmsegmentation 1.x."""
    return ConfigError(
        where,
        "expected a config of mmsegmentation 0.x, found one of 1.x",
        "take the config of the same name from mmsegmentation's 0.x branch",
    )


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) and key.isascii()


def _text(value: Any, indent: int, column: int) -> str:
    """A plain value as Python, on one line where it fits."""
    short = _short(value)
    if column + indent + len(short) <= _WIDTH or not isinstance(value, dict | list | tuple) or not value:
        return short
    inner = indent + 4
    pad = "\n" + " " * inner
    if isinstance(value, dict):
        if all(_is_name(key) for key in value):
            items = [f"{key}={_text(item, inner, len(key) + 2)}" for key, item in value.items()]
            return f"dict({pad}{f',{pad}'.join(items)})"
        items = [f"{_short(key)}: {_text(item, inner, len(_short(key)) + 3)}" for key, item in value.items()]
        return f"{{{pad}{f',{pad}'.join(items)}}}"
    items = [_text(item, inner, 1) for item in value]
    opening, closing = "[]" if isinstance(value, list) else "()"
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{opening}{pad}{f',{pad}'.join(items)}{comma}{closing}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        if all(_is_name(key) for key in value):
            return f"dict({', '.join(f'{key}={_short(item)}' for key, item in value.items())})"
        return f"{{{', '.join(f'{_short(key)}: {_short(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, set):
        return f"{{{', '.join(sorted(map(_short, value)))}}}" if value else "[]"
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)  # escapes what cannot be printed


def _plain(node: ast.expr, depth: int = 0) -> Any:
    """The value of a literal; `dict(...)` counts as one, because that is how configs write dictionaries."""
    if depth > MAX_DEPTH:
        raise ValueError(f"line {node.lineno} is nested more than {MAX_DEPTH} deep")
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            if any(keyword.arg is None for keyword in keywords):
                raise ValueError(f"line {node.lineno} is not a plain value")
            return {str(keyword.arg): _plain(keyword.value, depth + 1) for keyword in keywords}
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as mapping], keywords=[]):
            return _plain(mapping, depth)  # with keys that are not Python names
        case ast.Dict(keys=keys, values=values):
            found = {}
            for key, value in zip(keys, values, strict=True):
                if not isinstance(key, ast.Constant | ast.UnaryOp | ast.Name):
                    raise ValueError(f"line {node.lineno} is not a plain value")
                found[_plain(key, depth + 1)] = _plain(value, depth + 1)
            return found
        case ast.List(elts=items):
            return [_plain(item, depth + 1) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_plain(item, depth + 1) for item in items)
        case ast.Set(elts=items):
            return {_plain(item, depth + 1) for item in items}
        case ast.Name(id="inf" | "nan" as name):  # as Python prints these floats
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -float("inf")
        case ast.Constant(value=value) if isinstance(value, _SCALARS):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            return ast.literal_eval(node)
    raise ValueError(f"line {node.lineno} is not a plain value")
