"""How `landseg predict` reads its images: the `dataset.yaml` and the scale that nobody wrote for them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from landseg.contracts.errors import ConfigError, ContractError
from landseg.contracts.yaml_documents import MAX_YAML_BYTES, parse_yaml
from landseg.models.model_input import common_nodata, same_values
from landseg.models.trained_model import TrainedModel
from landseg.raw.config.dataset_yaml import DatasetConfig, parse_config
from landseg.raw.config.rules import RangeScale
from landseg.raw.layout.inputs import SPLIT
from landseg.raw.layout.listing import RawDataset
from landseg.raw.probing import probe_kind

_SIDE = 512
"""Of the windows of a scene, in pixels, where no model says what it was trained on."""


def dataset_config(args: argparse.Namespace, models: Sequence[TrainedModel]) -> DatasetConfig:
    """The `dataset.yaml` of the images: what the models say, and what `--dataset-yaml` adds."""
    sides = [max(model.input.tile_size) for model in models if model.input and model.input.tile_size]
    side = args.tile_px or min(8192, max([32, *sides]) if sides else _SIDE)
    classes = list(models[0].classes)
    palette = next((model.palette for model in models if model.palette), None)
    made: dict[str, Any] = {
        "version": 1,
        "name": _dataset_name(args.inputs),
        "classes": classes,
        "scenes": {"max_px": max(64, side), "tile_px": side, "overlap_px": side // 8},
    }
    if palette:
        made["palette"] = [list(colour) for colour in palette]
    where: object = "dataset.yaml"
    if args.dataset_yaml is not None:
        where = args.dataset_yaml
        given = _read_yaml(args.dataset_yaml)
        if given.get("classes", classes) != classes:
            raise ContractError(
                where, f"expected the models' classes, {', '.join(classes)}, found others", "leave them out"
            )
        made |= given
    if "nodata" not in made and (nodata := common_nodata(models)) is not None:
        made["nodata"] = list(nodata) if isinstance(nodata, tuple) else nodata
    return parse_config(json.dumps(made).encode(), where)


def with_scale(raw: RawDataset, models: Sequence[TrainedModel]) -> RawDataset:
    """The models' scale for images whose values 16 bits do not hold: they are stored within it.

    Where a model was trained on other images, or dataset.yaml gives a scale, nothing changes; staging asks for what is
    missing.
    """
    kind = probe_kind(raw.source, [raw.pairing.tiles[SPLIT]])
    if kind is None or not kind.is_wide or raw.config.scale is not None:
        return raw
    inputs = [model.input for model in models if model.input and model.input.dtype]
    known = [one for one in inputs if one.dtype and same_values(one.dtype, kind.dtype)]
    scales = [one.scale for one in known if one.scale]
    if len(scales) < len(models):
        return raw
    alike = len({(one.bands, scale.low, scale.high) for one, scale in zip(known, scales, strict=True)}) == 1
    if alike and known[0].bands == tuple(range(1, kind.num_bands + 1)):
        low, high = scales[0].low, scales[0].high
    else:
        low, high = (min(min(scale.low) for scale in scales),), (max(max(scale.high) for scale in scales),)
    scale = RangeScale(method="range", low=low, high=high)
    return replace(raw, config=raw.config.model_copy(update={"scale": scale}))


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
        raise ConfigError("--dataset-yaml", f"expected a regular file, found {path}, which is none")
    try:
        with path.open("rb") as reader:
            data = reader.read(MAX_YAML_BYTES + 1)
    except OSError as err:
        raise ConfigError("--dataset-yaml", f"{path} cannot be read: {(err.strerror or str(err)).lower()}") from err
    found = parse_yaml(data, path)
    if not isinstance(found, dict):
        raise ContractError(path, f"expected a mapping, found {type(found).__name__}")
    return found


def _dataset_name(inputs: Sequence[str]) -> str:
    """A dataset's name from the first input's."""
    stem = inputs[0].rstrip("/").rpartition("/")[2].partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:60] or "images"
