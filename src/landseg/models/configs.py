"""mmsegmentation 0.x configs: found by name, path or URI, and read back from text without running it.

Names are those of landseg's own configs, and of the stock ones that come with the installed mmsegmentation.

A config file is Python that mmcv executes: use only files you trust, as with a script. The text of a config in a
manifest or a checkpoint is data from elsewhere and is therefore parsed, never executed.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import mmcv
import mmseg

from landseg import storage
from landseg.contracts.errors import ConfigError, ContractError, ObjectNotFoundError
from landseg.models.download import download, is_http

BUNDLED = Path(__file__).parents[1] / "configs"
STOCK = Path(mmseg.__file__).parent / ".mim" / "configs"
FOLLOWS = "from_dataset"
"""Entry of a config that comes from a file: which of its numbers are only examples, to be replaced by the dataset's."""
_EXAMPLES = {"num_classes": r".*num_classes", "in_channels": r"model\.backbone\..*in_channels"}
_SUFFIXES = (".py", ".json", ".yaml", ".yml")


def bundled_names() -> list[str]:
    """Names of the configs that come with landseg."""
    return sorted(path.stem for path in BUNDLED.glob("*.py"))


def _by_name() -> dict[str, Path]:
    """Configs known by name; landseg's own take precedence over mmsegmentation's."""
    stock = {path.stem: path for path in STOCK.glob("[!_]*/*.py")}
    return stock | {path.stem: path for path in BUNDLED.glob("*.py")}


def load_config(ref: str, options: Mapping[str, Any] | None = None) -> mmcv.Config:
    """Load a config with its bases.

    The result is marked to take the dataset's numbers of classes and bands, unless an option sets one
    (:func:`landseg.models.build.fit_config`).

    Args:
        ref: name of a bundled or stock config, or a config file's path, s3:// or http(s):// address. A fragment (`#…`)
            appended to it only serves KFP's cache, which knows a config by its address: it changes with the file.
        options: overrides by dotted key, as mmseg's `--cfg-options`: `{"optimizer.lr": 0.02}`.

    Raises:
        ConfigError: there is no such config, it does not load, or it is not one of mmsegmentation 0.x.
    """
    ref, options = ref.partition("#")[0], dict(options or {})
    with _local_file(ref) as path:
        try:
            config = mmcv.Config.fromfile(str(path))
            config.merge_from_dict(options)
        except Exception as err:  # a config is code, which may raise anything
            _drop_frames(err)
            raise ConfigError(ref, f"the config does not load: {type(err).__name__}: {err}") from err
    _check(config, ref)
    config[FOLLOWS] = [
        name for name, key in _EXAMPLES.items() if not any(re.fullmatch(key, asked) for asked in options)
    ]
    return config


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` pairs as mmseg's `--cfg-options` does: `optimizer.lr=0.02 model.backbone.depths=[2,2]`.

    Raises:
        ConfigError: a pair has no `=`, or its brackets do not match.
    """
    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError("--cfg-options", f"expected key=value, found {pair!r}")
        try:
            options[key] = mmcv.DictAction._parse_iterable(value)
        except AssertionError as err:
            raise ConfigError("--cfg-options", f"the brackets of {pair!r} do not match") from err
    return options


def parse_config(text: str, where: object) -> mmcv.Config:
    """Parse what `mmcv.Config.pretty_text` printed; nothing in it is executed.

    Raises:
        ContractError: the text is more than assignments of plain values.
    """
    try:
        values = {}
        for node in ast.parse(text).body:
            if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
                raise ValueError(f"line {node.lineno} is not an assignment")
            values[node.targets[0].id] = _plain(node.value)
        config = mmcv.Config(values)
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as err:
        raise ContractError(where, f"expected the text of an mmseg config, found something else: {err}") from err
    _check(config, where)
    return config


def import_modules(config: mmcv.Config) -> None:
    """Import the `custom_imports` of a config that the caller trusts; parsing imports nothing.

    Raises:
        ConfigError: a module cannot be imported.
    """
    custom = dict(config.get("custom_imports") or {})
    names = custom.get("imports") or []
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except ImportError as err:
            if not custom.get("allow_failed_imports"):
                raise ConfigError(f"custom_imports {name}", f"cannot be imported: {err}") from err


def _plain(node: ast.expr) -> Any:
    """The value of a literal; `dict(...)` counts as one, because that is how mmcv prints dictionaries."""
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            if any(keyword.arg is None for keyword in keywords):
                raise ValueError(f"line {node.lineno} is not a plain value")
            return {str(keyword.arg): _plain(keyword.value) for keyword in keywords}
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as mapping], keywords=[]):
            return _plain(mapping)  # with keys that are not Python names
        case ast.Dict(keys=keys, values=values):
            if any(key is None for key in keys):
                raise ValueError(f"line {node.lineno} is not a plain value")
            return {_plain(key): _plain(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.List(elts=items):
            return [_plain(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_plain(item) for item in items)
        case ast.Name(id="inf" | "nan" as name):  # as Python prints these floats
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -float("inf")
    return ast.literal_eval(node)


def _drop_frames(err: Exception) -> None:
    """Let go of what a failed load holds, without noise.

    mmcv leaves its temporary file to the garbage collector, which remarks on stderr that the file's folder is gone.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda remark: None
    try:
        traceback.clear_frames(err.__traceback__)
    finally:
        sys.unraisablehook = hook


def _check(config: mmcv.Config, where: object) -> None:
    model = config.get("model")
    if "data_preprocessor" in (model or {}) or "train_dataloader" in config or "default_scope" in config:
        raise ConfigError(
            where,
            "expected a config of mmsegmentation 0.x, found one of 1.x",
            "take the config of the same name from mmsegmentation's 0.x branch",
        )
    if not isinstance(model, dict) or "type" not in model:
        raise ConfigError(where, "expected a config of mmsegmentation 0.x with a `model`, found none")


@contextlib.contextmanager
def _local_file(ref: str) -> Iterator[Path]:
    """The config as a local file, with its bases where it refers to them."""
    if is_http(ref) or storage.is_s3(ref):
        with tempfile.TemporaryDirectory(prefix="landseg-config-") as folder:
            yield _mirror(ref, Path(folder))
    elif Path(ref).suffix in _SUFFIXES or "/" in ref:
        if not Path(ref).is_file():
            raise ConfigError(ref, "there is no such config file")
        yield Path(ref)
    elif path := (known := _by_name()).get(ref):
        yield path
    else:
        near = difflib.get_close_matches(ref, known, 3, 0.5)
        names = ", ".join(bundled_names())
        hint = f"did you mean {' or '.join(near)}?" if near else f"bundled: {names}; stock: as mmsegmentation has them"
        raise ConfigError("--config", f"unknown config name {ref!r}", hint)


def _mirror(uri: str, folder: Path) -> Path:
    """Copy a remote config and, because bases are relative paths, its bases in the same arrangement."""
    address = urlsplit(uri)
    target = folder / address.netloc / address.path.lstrip("/")
    if target.is_file():
        return target
    try:
        download(uri, target)
    except ObjectNotFoundError as err:
        raise ConfigError(uri, "there is no such config file") from err
    for base in _bases(target):
        # urljoin resolves `..` for the schemes it knows, and s3 is not one of them
        absolute = urljoin(f"http://{address.netloc}{address.path}", base).removeprefix("http://")
        _mirror(f"{address.scheme}://{absolute}", folder)
    return target


def _bases(path: Path) -> list[str]:
    if path.suffix != ".py":
        return []
    try:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets):
                value = ast.literal_eval(node.value)
                return [value] if isinstance(value, str) else list(value)
    except (SyntaxError, ValueError, UnicodeDecodeError) as err:
        raise ConfigError(path.name, f"the config does not load: {err}") from err
    return []
