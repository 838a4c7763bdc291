"""Pretrained weights: found, fetched once for all machines, converted, and loaded whole or refused."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import mmcv
import torch
from mmcv.runner.checkpoint import get_external_models, get_mmcls_models, get_torchvision_models
from mmseg.models.backbones import VisionTransformer
from mmseg.models.builder import BACKBONES

from landseg import storage
from landseg.contracts.documents import Document, Sha256, sha256_hex
from landseg.contracts.errors import (
    ConfigError,
    ContractError,
    DamagedObjectError,
    ObjectNotFoundError,
    StorageError,
    without_credentials,
)
from landseg.models.build import read_checkpoint
from landseg.models.conversion import (
    State,
    convert_mmcls_resnet,
    convert_official_swin,
    extend_input,
    fit_position_tables,
    is_mmcls_resnet,
    is_official_swin,
)
from landseg.models.download import download, is_http

_OWN = ("num_batches_tracked", "relative_position_index")
"""Buffers that follow from the architecture, or that old checkpoints have not; the model's own do."""


class CacheRecord(Document):
    """Beside a cached file: what it is. Written after it, so its presence means that the file is whole."""

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


@dataclass(frozen=True)
class LoadReport:
    """What loading did.

    Attributes:
        loaded: number of weights (and buffers) that were loaded.
        new: weights that the file has not: they are as the model was initialised.
        unused: what the file has besides.
        notes: conversions.
    """

    loaded: int
    new: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.loaded} weights loaded", *self.notes]
        if self.new:
            parts.append(f"{len(self.new)} not in the file, new: {_listed(self.new)}")
        if self.unused:
            parts.append(f"{len(self.unused)} in the file of no use: {_listed(self.unused)}")
        return "; ".join(parts)


def find_source(config: mmcv.Config, choice: str) -> str | None:
    """Where a model starts from.

    Args:
        config: its config, asked where nothing is chosen: `pretrained` as in landseg's configs, or the
            first `pretrained` or `init_cfg` in the model, as in stock ones.
        choice: `--pretrained`: a URI, "none", or "" for what the config says.

    Returns:
        A URI, or None for random weights.
    """
    if choice:
        return None if choice == "none" else choice
    if config.get("pretrained"):
        return str(config.pretrained)
    return next((str(part[key]) for part, key in _sources(config.model)), None)


def _sources(node: Any) -> Iterator[tuple[Any, str]]:
    """Every place in a model's config that names weights, as (dictionary, key), outer ones first."""
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
    """A copy of a config whose model does not fetch weights by itself when mmseg initialises it."""
    stripped = copy.deepcopy(config)
    _strip(stripped.model)
    if stripped.get("load_from"):
        stripped["load_from"] = None
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
            node["init_cfg"] = [item for item in init if item.get("type") != "Pretrained"] or None
        for value in node.values():
            _strip(value)


def fetch(source: str, storage_uri: str, folder: Path) -> Fetched:
    """Get pretrained weights. What comes over http(s) is kept in object storage, and taken from there the next time.

    Args:
        source: http(s)://, s3://, a path, or mmcv's `open-mmlab://`, `mmcls://` and `torchvision://` names; with
            `#sha256=<64 digits>` behind it to have the file checked. A name that ends in `-<digits>.pth`, as model zoos
            write it, is checked against these first digits of its SHA-256.
        storage_uri: root in object storage; the cache is `<storage_uri>/pretrained/`.
        folder: local folder for the file.

    Raises:
        ConfigError: the checksum is malformed, or mmcv knows no model of that name.
        StorageError: out of reach, or not the file that was asked for.
    """
    uri, expected = _split_checksum(source)
    uri = _resolve_zoo(uri)
    path = folder / (Path(urlsplit(uri).path).name or "weights.pth")
    if is_http(uri):
        sha256 = _fetch_cached(uri, expected, storage.join(storage_uri, "pretrained"), path)
    else:
        storage.get_file(uri, path)
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
    public = without_credentials(uri)  # an address that is signed anew is the same file
    place = storage.join(cache, f"{sha256_hex(public.encode())[:12]}-{path.name}")
    try:
        record = storage.read_document(CacheRecord, f"{place}.json").document
        if expected in {None, record.sha256}:
            storage.get_file(place, path, sha256=record.sha256)
            return record.sha256
    except (ObjectNotFoundError, ContractError, DamagedObjectError):
        pass  # not there, or not whole: fetched anew
    download(uri, path)
    sha256 = storage.file_sha256(path)
    _check_sum(uri, sha256, expected)
    storage.put_file(place, path)
    record = CacheRecord(uri=public, sha256=sha256, size_bytes=path.stat().st_size)
    storage.write_document(f"{place}.json", record)
    return sha256


def _check_sum(uri: str, found: str, expected: str | None) -> None:
    zoo = re.search(r"-([0-9a-f]{8,64})\.pth$", urlsplit(uri).path)
    wanted = expected or (zoo[1] if zoo else "")
    if not found.startswith(wanted):
        raise StorageError(uri, f"expected a file with sha256 {wanted}, found {found}", "it is not the file you meant")


def load_pretrained(model: torch.nn.Module, path: Path) -> LoadReport:
    """Load pretrained weights: a backbone's (official Swin, mmcls, or mmseg's names), or a whole segmentation model's.

    The backbone is loaded whole or not at all. Names and orders of other code are converted, position tables of another
    window size interpolated, and where the model takes another number of bands than three the first convolution is
    extended (:mod:`landseg.models.conversion`). Of a segmentation model the layers that depend on its classes may
    be of another size; they are learnt anew.

    Raises:
        ContractError: the file is not a checkpoint, or of another architecture; missing and unexpected weights are
            listed. The model is unchanged.
    """
    state = read_checkpoint(path)["state_dict"]
    expected = model.state_dict()
    heads = {key: value for key, value in state.items() if key.startswith(("decode_head.", "auxiliary_head.", "neck."))}
    backbone = {key: value for key, value in state.items() if key not in heads}
    if any(key.startswith("backbone.") for key in backbone):
        backbone = {key.removeprefix("backbone."): value for key, value in backbone.items()}
    matches = [_match(backbone, module, name) for name, module in _backbones(model)]
    match = next((match for match in matches if not any(match.problems.values())), matches[0])
    if any(match.problems.values()):
        problems = match.problems | {"unexpected": match.unused}
        listed = "; ".join(f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in problems.items() if keys)
        raise ContractError(
            path.name, f"expected pretrained weights of the config's backbone, found {listed}", "nothing was loaded"
        )
    loaded = match.fitting | _fitting_heads(heads, expected)
    model.load_state_dict(loaded, strict=False)
    new, unused = match.new, match.unused
    if heads:
        new += [key for key in expected if key not in loaded and not key.startswith("backbone.")]
        unused += [key for key in heads if key not in loaded]
    return LoadReport(len(loaded), tuple(new), tuple(unused), tuple(match.notes))


@dataclass
class _Match:
    """How a file's weights fit a backbone; `problems` by kind, and `fitting` by the model's own names."""

    fitting: State
    new: list[str]
    unused: list[str]
    problems: dict[str, list[str]]
    notes: list[str]


def _backbones(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The backbone, and one inside it where it is built around another network (BiSeNet, STDC, ICNet)."""
    kinds = tuple(BACKBONES.module_dict.values())
    named = [(name, module) for name, module in model.named_modules() if re.match(r"backbone(\.|$)", name)]
    return [named[0], *((name, module) for name, module in named[1:] if isinstance(module, kinds))]


def _match(state: State, module: torch.nn.Module, name: str) -> _Match:
    own: State = module.state_dict()
    notes: list[str] = []
    state = _converted(state, module, own, notes)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    unused = [key for key in state if key not in own]
    new = [key for key in own if key not in state and not key.endswith(_OWN)]
    # What stands beside the backbone's own parts is a classifier's. What stands inside them is another architecture.
    parts = {key.partition(".")[0] for key in own}
    problems = {
        # The norms that mmseg puts behind Swin's stages for dense prediction are in no classification checkpoint.
        "missing": [key for key in new if not re.match(r"norm\d\.", key)],
        "unexpected": [key for key in unused if key.partition(".")[0] in parts],
        "of another shape": [
            f"{key} {list(value.shape)} for {list(own[key].shape)}"
            for key, value in state.items()
            if key in own and key not in fitting
        ],
    }
    return _Match({f"{name}.{key}": value for key, value in fitting.items()}, new, unused, problems, notes)


def _fitting_heads(heads: State, expected: State) -> State:
    """Weights of the heads that fit whole, but for the layers that depend on the classes; others are of no use."""
    loaded: State = {}
    for name in ("decode_head.", "auxiliary_head.", "neck."):
        own = {key: value for key, value in expected.items() if key.startswith(name)}
        fitting = {key: heads[key] for key, value in own.items() if key in heads and heads[key].shape == value.shape}
        if all(".conv_seg." in key or key.endswith(_OWN) for key in own.keys() - fitting.keys()):
            loaded |= fitting
    return loaded


def _converted(state: State, module: Any, own: State, notes: list[str]) -> State:
    if is_official_swin(state):
        state = convert_official_swin(state)
        notes.append("converted from official Swin")
    if is_mmcls_resnet(state) and "stem.0.weight" in own:
        state = convert_mmcls_resnet(state)
        notes.append("converted from mmcls")
    fitted = fit_position_tables(state, own)
    if any(fitted[key] is not state[key] for key in state):
        notes.append("position tables interpolated to the model's window size")
    if (
        isinstance(module, VisionTransformer)
        and fitted.get("pos_embed", module.pos_embed).shape != module.pos_embed.shape
    ):
        fitted["pos_embed"] = _fit_vit_positions(fitted["pos_embed"], module)
        notes.append("position embedding interpolated to the model's image size")
    for key, value in fitted.items():
        shape, wanted = tuple(value.shape), tuple(own[key].shape) if key in own else ()
        if (
            len(shape) == len(wanted) == 4
            and shape[1] == 3 != wanted[1]
            and (shape[0], *shape[2:]) == (wanted[0], *wanted[2:])
        ):
            fitted[key] = extend_input(value, wanted[1])  # only the layer that sees the image has three inputs
            notes.append(f"first convolution extended from 3 to {wanted[1]} bands")
    return fitted


def _fit_vit_positions(embedding: torch.Tensor, module: Any) -> torch.Tensor:
    """A position embedding (1, 1 + tokens, C) for another image size, as mmseg's VisionTransformer does it."""
    size = tuple(side // module.patch_size for side in module.img_size)
    before = math.isqrt(embedding.shape[1] - 1)
    resized: torch.Tensor = module.resize_pos_embed(embedding, size, (before, before), module.interpolate_mode)
    return resized


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
