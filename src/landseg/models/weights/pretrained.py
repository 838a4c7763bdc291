"""Where pretrained weights come from: found in a config, fetched once for all machines, and checked."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import mmcv
from mmcv.runner.checkpoint import get_external_models, get_mmcls_models, get_torchvision_models

from landseg import storage
from landseg.contracts.documents import Document, Sha256, sha256_hex
from landseg.contracts.errors import (
    ConfigError,
    ContractError,
    DamagedObjectError,
    ObjectNotFoundError,
    StorageError,
    without_credentials,
    without_signatures,
)
from landseg.contracts.model import ModelManifest
from landseg.models.weights.checkpoint import read_checkpoint
from landseg.models.weights.download import download, fetch_object, is_http


class CacheRecord(Document):
    """What a cached file is. Written next to the file and after it, so its presence means that the file is complete."""

    kind: Literal["landseg.pretrained"] = "landseg.pretrained"
    version: int = 1
    uri: str
    sha256: Sha256
    size_bytes: int


@dataclass(frozen=True)
class Fetched:
    """Pretrained weights on local disk.

    Attributes:
        uri: where they came from.
        sha256: of the file.
        path: the file.
    """

    uri: str
    sha256: str
    path: Path


def find_source(config: mmcv.Config, choice: str) -> str | None:
    """Where a model starts from.

    Args:
        config: its config, used where nothing is chosen: `pretrained` as in landseg's configs, or the first
            `pretrained` or `init_cfg` in the model, as in stock ones.
        choice: `--pretrained`: a URI, "none", or "" for the config's own.

    Returns:
        A URI, or None for random weights.
    """
    if choice:
        return None if choice == "none" else choice
    if config.get("pretrained"):
        return str(config.pretrained)
    return next((str(part[key]) for part, key in _sources(config.model)), None)


def weights_of_model(source: str) -> str:
    """Where the weights of a model that landseg trained are, with their checksum; other sources unchanged.

    Args:
        source: as :func:`find_source` returns it; a model's is its manifest, or a reference to it (`model.json`).

    Raises:
        StorageError: the manifest cannot be read.
        ContractError: it is not a model's.
    """
    if not source.endswith(".json"):
        return source
    loaded = storage.read_document(ModelManifest, source)
    weights = loaded.document.checkpoint
    return f"{storage.join(storage.parent(loaded.uri), weights.path)}#sha256={weights.sha256}"


def _sources(node: Any) -> Iterator[tuple[Any, str]]:
    """Every reference to weights in a model's config, as (dictionary, key), outer ones first."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _sources(item)
    elif isinstance(node, dict):
        if isinstance(node.get("pretrained"), str):
            yield node, "pretrained"
        if node.get("type") == "Pretrained":
            yield node, "checkpoint"
        for value in node.values():
            yield from _sources(value)


def without_pretrained(config: mmcv.Config) -> mmcv.Config:
    """A copy of a config whose model does not fetch weights on its own when mmseg initialises it."""
    stripped = copy.deepcopy(config)
    _strip(stripped.model)
    if stripped.get("load_from"):
        stripped["load_from"] = None
    stripped.pop("pretrained", None)  # the manifest records it among the parameters
    return stripped


def _strip(node: Any) -> None:
    if isinstance(node, list | tuple):
        for item in node:
            _strip(item)
    elif isinstance(node, dict):
        if isinstance(node.get("pretrained"), str):
            node["pretrained"] = None
        init = node.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            node["init_cfg"] = None
        elif isinstance(init, list | tuple):
            kept = [item for item in init if not (isinstance(item, dict) and item.get("type") == "Pretrained")]
            node["init_cfg"] = kept or None
        for value in node.values():
            _strip(value)


def fetch(source: str, storage_uri: str, folder: Path, advice: str = "") -> Fetched:
    """Get pretrained weights. Files from http(s) are cached in object storage and taken from there the next time.

    Args:
        source: http(s)://, s3://, a path, or mmcv's `open-mmlab://`, `mmcls://` and `torchvision://` names; with
            `#sha256=<64 digits>` appended, the file is checked. A name that ends in `-<digits>.pth`, as in model zoos,
            is checked against these first digits of its SHA-256.
        storage_uri: root in object storage; the cache is `<storage_uri>/pretrained/`.
        folder: local folder for the file.
        advice: what to do where there is no such file.

    Raises:
        ConfigError: the checksum is malformed, or mmcv knows no model of that name.
        StorageError: out of reach, or not the expected file.
        ContractError: what an http(s) address gave is not a checkpoint; it is not kept.
    """
    uri, expected = _split_checksum(source)
    uri = _resolve_zoo(uri)
    path = folder / (Path(urlsplit(uri).path).name or "weights.pth")
    if is_http(uri):
        sha256 = _fetch_cached(uri, expected, storage.join(storage_uri, "pretrained"), path)
    else:
        try:
            fetch_object(uri, path)
        except ObjectNotFoundError as err:
            raise ObjectNotFoundError(uri, err.problem, err.hint or advice) from err
        sha256 = storage.file_sha256(path)
        _check_sum(uri, sha256, expected)
    return Fetched(without_credentials(uri), sha256, path)


def _split_checksum(source: str) -> tuple[str, str | None]:
    uri, separator, fragment = source.partition("#")
    if not separator:
        return uri, None
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise ConfigError("--pretrained", f"expected URI#sha256=<64 hexadecimal digits>, found {source!r}")
    return uri, match[1].lower()


def _resolve_zoo(uri: str) -> str:
    scheme, separator, name = uri.partition("://")
    zoos = {
        "open-mmlab": get_external_models,
        "openmmlab": get_external_models,
        "mmcls": get_mmcls_models,
        "torchvision": get_torchvision_models,
    }
    if not separator or scheme not in zoos:
        return uri
    models = zoos[scheme]()
    if name not in models:
        raise ConfigError("--pretrained", f"mmcv's list of {scheme} models has no {name!r}", "give its address")
    return str(models[name])


def _fetch_cached(uri: str, expected: str | None, cache: str, path: Path) -> str:
    same_file = without_signatures(uri)  # an address with a new signature is the same file
    place = storage.join(cache, f"{sha256_hex(same_file.encode())[:12]}-{path.name}")
    try:
        record = storage.read_document(CacheRecord, f"{place}.json").document
        if expected in {None, record.sha256}:
            storage.get_file(place, path, sha256=record.sha256)
            return record.sha256
    except (ObjectNotFoundError, ContractError, DamagedObjectError):
        pass  # absent or damaged: fetched again
    download(uri, path)
    sha256 = storage.file_sha256(path)
    _check_sum(uri, sha256, expected)
    read_checkpoint(path, uri)  # what is not a checkpoint is not kept
    storage.put_file(place, path)
    record = CacheRecord(uri=without_credentials(uri), sha256=sha256, size_bytes=path.stat().st_size)
    storage.write_document(f"{place}.json", record)
    return sha256


def _check_sum(uri: str, found: str, expected: str | None) -> None:
    zoo = re.search(r"-([0-9a-f]{8,64})\.pth$", urlsplit(uri).path)
    wanted = expected or (zoo[1] if zoo else "")
    if not found.startswith(wanted):
        raise StorageError(uri, f"expected a file with sha256 {wanted}, found {found}", "it is not the file you meant")
