"""A trained model as export finds it: landseg's manifest, or a checkpoint that mmsegmentation wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from landseg import storage
from landseg.contracts.dataset import MAX_CLASSES, ClassSchema, DatasetManifest
from landseg.contracts.documents import Byte, describe, validate
from landseg.contracts.errors import ContractError, LandsegError
from landseg.contracts.model import ModelInput, ModelManifest, is_checkpoint
from landseg.dataset.places import manifest_uri
from landseg.models.checkpoint_names import backbone_name
from landseg.models.weights.pickle_values import Skipped

INPUT = "landseg_input"
"""In a checkpoint's `meta`: the :class:`ModelInput`, as plain values."""


@dataclass(frozen=True)
class TrainedModel:
    """What predicting needs to know.

    Attributes:
        uri: where it was read from, for messages.
        name: the model's name in the run.
        sha256: of the manifest, or of the checkpoint where there is no manifest.
        checkpoint_uri, checkpoint_sha256: the checkpoint.
        config: the resolved mmseg config as text.
        classes: names, in the order of its probabilities.
        palette: one RGB colour per class; None where not known.
        input: the images it was trained on; None where not known: then 8-bit images of as many bands as `mean`.
        mean, std: normalisation per band, on the 0-255 scale.
        precision: what it was trained in; None where not known.
    """

    uri: str
    name: str
    sha256: str
    checkpoint_uri: str
    checkpoint_sha256: str
    config: str
    classes: tuple[str, ...]
    palette: tuple[tuple[Byte, Byte, Byte], ...] | None
    input: ModelInput | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str | None = None


def open_model(ref: str, folder: Path, storage_uri: str = "") -> TrainedModel:
    """Open a model by its manifest, or by a checkpoint (`*.pth`, `*.pt`, `*.ckpt` ...) that mmsegmentation wrote.

    Args:
        ref: URI or path.
        folder: local folder for the checkpoint, if it must be read.
        storage_uri: root in object storage, where the dataset of a model of an earlier release is looked for.

    Raises:
        StorageError: it cannot be read.
        ContractError: it is neither.
    """
    if is_checkpoint(ref):
        return _from_checkpoint(ref, folder)
    loaded = storage.read_document(ModelManifest, ref)
    manifest = loaded.document
    return TrainedModel(
        uri=loaded.uri,
        name=manifest.name,
        sha256=loaded.sha256,
        checkpoint_uri=storage.join(storage.parent(loaded.uri), manifest.checkpoint.path),
        checkpoint_sha256=manifest.checkpoint.sha256,
        config=manifest.config,
        classes=manifest.class_schema.classes,
        palette=manifest.class_schema.palette,
        input=manifest.input or _input_of_earlier(manifest, loaded.uri, storage_uri),
        mean=manifest.mean,
        std=manifest.std,
        precision=manifest.parameters.get("precision"),
    )


def check_predicts(model: TrainedModel, trusted: Sequence[str] = ()) -> None:
    """Refuse a model whose config landseg cannot predict with, before other work is done for it.

    Args:
        model: what is to predict.
        trusted: modules besides OpenMMLab's that may be imported for the types they register.

    Raises:
        ContractError: the config is not the text of one.
        ConfigError: the model names types that are not allowed, or the test pipeline has steps that landseg lacks.
    """
    from landseg.models.config_text import parse_config
    from landseg.models.foreign import reduce_for_prediction
    from landseg.models.preprocessing import tile_scales

    config = parse_config(model.config, f"config of {model.uri}")
    reduce_for_prediction(config, trusted)
    tile_scales(config, f"test_pipeline of {model.uri}")


def _input_of_earlier(manifest: ModelManifest, uri: str, storage_uri: str) -> ModelInput:
    """What a manifest of an earlier release says of the images, and the dataset, where it is still in place."""
    schema = manifest.class_schema
    known = ModelInput(bands=schema.bands, dtype=None if schema.scale else "uint8", scale=schema.scale)
    roots = [storage_uri, uri.partition("/runs/")[0] if "/runs/" in uri else ""]
    for root in filter(None, roots):
        try:
            found = storage.read_document(DatasetManifest, manifest_uri(root, manifest.dataset_id)).document
        except LandsegError:  # pruned, or in another storage
            continue
        return known.model_copy(update={"dtype": found.dtype, "num_file_bands": found.num_bands})
    return known


def _checkpoint_input(meta: dict[str, Any], num_bands: int, ref: str) -> ModelInput | None:
    """What a checkpoint that landseg trained says of the images."""
    if INPUT not in meta:
        return None
    where = f"meta.{INPUT} of {ref}"
    try:
        found = validate(ModelInput, json.dumps(meta[INPUT], allow_nan=False).encode(), where)
    except (TypeError, ValueError, RecursionError) as err:
        raise ContractError(where, f"expected plain values, found something else: {err}") from err
    if len(found.bands) != num_bands:
        raise ContractError(
            where, f"expected the {num_bands} bands of the config's Normalize, found {len(found.bands)}"
        )
    return found


def _checkpoint_palette(meta: dict[str, Any], num_classes: int) -> tuple[tuple[int, int, int], ...] | None:
    """The colours of a checkpoint's classes, if they are colours."""
    try:
        colours = [(int(red), int(green), int(blue)) for red, green, blue in meta["PALETTE"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    fitting = len(colours) == num_classes and all(0 <= value <= 255 for colour in colours for value in colour)
    return tuple(colours) if fitting else None


def _checkpoint_classes(meta: dict[str, Any], ref: str) -> tuple[str, ...]:
    """The names of a checkpoint's classes, which go into datasets, reports and maps."""
    listed = meta["CLASSES"][: MAX_CLASSES + 1]
    for name in listed:
        if not isinstance(name, str | int) or isinstance(name, bool):
            found = name.kind if isinstance(name, Skipped) else type(name).__name__
            problem = f"expected the names of classes as texts, found a {found}"
            raise ContractError(f"meta.CLASSES of {ref}", problem, "give each class a name")
    names = tuple(map(str, listed))
    try:
        ClassSchema(classes=names, palette=((0, 0, 0),) * len(names), bands=(1,))
    except ValidationError as err:
        raise ContractError(f"meta.CLASSES of {ref}", describe(err), "give each class a name of its own") from err
    return names


def _from_checkpoint(ref: str, folder: Path) -> TrainedModel:
    from landseg.models.config_text import parse_config
    from landseg.models.normalisation import find_normalize
    from landseg.models.weights.checkpoint import is_mmseg_1, read_checkpoint
    from landseg.models.weights.download import fetch_object

    path = folder / "model.pth"
    fetch_object(ref, path)
    meta: dict[str, Any] = read_checkpoint(path, ref)["meta"]
    classes, text = meta.get("CLASSES"), meta.get("config")
    if is_mmseg_1(meta):
        raise ContractError(
            ref,
            "expected a checkpoint of mmsegmentation 0.x, found one of mmsegmentation 1.x",
            "train from its weights with --pretrained",
        )
    if not isinstance(text, str) or not isinstance(classes, list | tuple):
        absent = " and ".join(
            name for name, kind in (("config", str), ("CLASSES", list | tuple)) if not isinstance(meta.get(name), kind)
        )
        raise ContractError(
            ref,
            "expected a checkpoint of mmsegmentation 0.x, whose `meta` holds `config` and `CLASSES`, found "
            + (f"no {absent} in it" if meta else "only weights"),
            "give the manifest of a model that landseg trained, or a checkpoint that mmsegmentation's training wrote",
        )
    config = parse_config(text, ref)
    mean, std = find_normalize(config, ref)
    sha256 = storage.file_sha256(path)
    backbone = config.model.get("backbone")
    return TrainedModel(
        uri=ref,
        name=backbone_name(backbone.get("type", "model") if isinstance(backbone, dict) else "model"),
        sha256=sha256,
        checkpoint_uri=ref,
        checkpoint_sha256=sha256,
        config=text,
        classes=_checkpoint_classes(meta, ref),
        palette=_checkpoint_palette(meta, len(classes)),
        input=_checkpoint_input(meta, len(mean), ref),
        mean=mean,
        std=std,
    )
