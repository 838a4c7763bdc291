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
import os
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
from landseg.contracts.errors import ConfigError, ObjectNotFoundError
from landseg.models.config_text import MAX_TEXT_BYTES, check_version, parse_config
from landseg.models.weights.download import download, is_http

__all__ = [
    "BUNDLED",
    "FOLLOWS",
    "STOCK",
    "bundled_names",
    "import_modules",
    "load_config",
    "modules_to_import",
    "parse_config",
    "parse_options",
]

BUNDLED = Path(__file__).parents[1] / "configs"
STOCK = Path(mmseg.__file__).parent / ".mim" / "configs"
FOLLOWS = "from_dataset"
"""Entry of a config that comes from a file: which of its numbers are only examples, to be replaced by the dataset's."""
_EXAMPLES = {"num_classes": r".*num_classes", "in_channels": r"model\.backbone\..*in_channels"}
_MAX_FILES = 64
_MAX_SECONDS = 60.0
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
    check_version(config, ref)
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


def import_modules(config: mmcv.Config) -> None:
    """Import the `custom_imports` of a config that the caller trusts; parsing imports nothing.

    Raises:
        ConfigError: a module cannot be imported.
    """
    for name in modules_to_import(config):
        try:
            importlib.import_module(name)
        except Exception as err:  # a module is code, which may raise anything
            if not (isinstance(err, ImportError) and config.custom_imports.get("allow_failed_imports")):
                raise ConfigError(f"custom_imports {name}", f"cannot be imported: {err}") from err


def modules_to_import(config: mmcv.Config) -> list[str]:
    """The modules that a config's `custom_imports` lists.

    Raises:
        ConfigError: the entry is malformed.
    """
    custom = config.get("custom_imports") or {}
    names = custom.get("imports") or [] if isinstance(custom, dict) else custom
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError("custom_imports", f"expected dict(imports=[names of modules]), found {str(custom)[:80]}")
    return list(names)


def _drop_frames(err: Exception) -> None:
    """Let go of what a failed load holds, without noise.

    mmcv leaves its temporary file to the garbage collector, which remarks on stderr that the file's folder is gone.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda remark: None
    try:
        traceback.clear_frames(err.__traceback__)
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def _local_file(ref: str) -> Iterator[Path]:
    """The config as a local file, with its bases where it refers to them."""
    if is_http(ref) or storage.is_s3(ref):
        with tempfile.TemporaryDirectory(prefix="landseg-config-") as folder:
            yield _mirror(ref, Path(folder))
    elif Path(ref).suffix in _SUFFIXES or "/" in ref:
        if not Path(ref).is_file():
            raise ConfigError(ref, "there is no such config file")
        if (size := Path(ref).stat().st_size) > MAX_TEXT_BYTES:
            raise ConfigError(ref, f"expected a config of at most {MAX_TEXT_BYTES >> 20} MiB, found {size >> 10} KiB")
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
    try:
        address = urlsplit(uri)
    except ValueError as err:
        raise ConfigError(uri, f"expected the address of a config: {err}") from err
    target = Path(os.path.normpath(folder / address.netloc / address.path.lstrip("/")))
    if not target.is_relative_to(folder / address.netloc) or target == folder or address.netloc in {"", ".", ".."}:
        raise ConfigError(uri, "expected the address of a config file")
    if target.is_file():
        return target
    if sum(path.is_file() for path in folder.rglob("*")) >= _MAX_FILES:
        raise ConfigError(uri, f"expected at most {_MAX_FILES} configs that build on each other")
    try:
        download(uri, target, max_bytes=MAX_TEXT_BYTES, max_seconds=_MAX_SECONDS)
    except ObjectNotFoundError as err:
        raise ConfigError(uri, "there is no such config file") from err
    for base in _bases(target):
        # urljoin resolves `..` for the schemes it knows, and s3 is not one of them
        try:
            absolute = urlsplit(urljoin(f"http://{address.netloc}{address.path}", base))
        except ValueError as err:
            raise ConfigError(uri, f"expected a path for _base_, found {base[:80]!r}") from err
        if (absolute.scheme, absolute.netloc) != ("http", address.netloc):
            raise ConfigError(
                uri, f"expected bases beside the config, found {base[:80]!r}", "use relative paths in _base_"
            )
        _mirror(f"{address.scheme}://{absolute.netloc}{absolute.path}", folder)
    return target


def _bases(path: Path) -> list[str]:
    if path.suffix != ".py":
        return []
    try:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets):
                value = ast.literal_eval(node.value)
                bases = [value] if isinstance(value, str) else value
                if not isinstance(bases, list | tuple) or not all(isinstance(base, str) for base in bases):
                    raise ValueError("expected a path or a list of paths for _base_")
                return list(bases)
    except Exception as err:  # Python's parser has limits of its own: RecursionError, MemoryError
        reason = str(err) if isinstance(err, ValueError | SyntaxError) else "it is nested too deeply"
        raise ConfigError(path.name, f"the config does not load: {reason}") from err
    return []
