"""Files of mmsegmentation configs: found by name, path or address, with the bases that they build on.

Names are those of landseg's own configs, and of the stock ones that come with the installed mmsegmentation.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import mmseg

from landseg import storage
from landseg.cli.scratch import scratch_folder
from landseg.contracts.errors import ConfigError, ObjectNotFoundError
from landseg.models.config_text import MAX_TEXT_BYTES
from landseg.models.weights.download import download, is_http

BUNDLED = Path(__file__).parents[1] / "configs"
STOCK = Path(mmseg.__file__).parent / ".mim" / "configs"
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


@contextlib.contextmanager
def local_config(ref: str) -> Iterator[Path]:
    """A config as a local file, with its bases where it refers to them.

    Args:
        ref: name of a bundled or stock config, or a config file's path, s3:// or http(s):// address.

    Raises:
        ConfigError: there is no such config, or it is larger than any is.
    """
    if is_http(ref) or storage.is_s3(ref):
        with scratch_folder(None, "config") as folder:
            yield _mirror(ref, folder)
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
