"""A trained model as export finds it: landseg's manifest, or a checkpoint that mmsegmentation wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg import storage
from landseg.contracts.errors import ContractError
from landseg.contracts.model import ModelManifest

_CHECKPOINTS = (".pth", ".pt", ".pth.tar", ".ckpt")


@dataclass(frozen=True)
class TrainedModel:
    """What predicting needs to know.

    Attributes:
        uri: where it was read from, for messages.
        name: the model's name in the run.
        sha256: of the manifest, or of the checkpoint where there is no manifest.
        checkpoint_uri, checkpoint_sha256: the checkpoint.
        config: the resolved mmseg config as text.
        classes, num_bands: what it was trained on.
        bands: 1-based TIFF bands it was trained on; None where not known.
        mean, std: normalisation per band, on the 0-255 scale.
    """

    uri: str
    name: str
    sha256: str
    checkpoint_uri: str
    checkpoint_sha256: str
    config: str
    classes: tuple[str, ...]
    bands: tuple[int, ...] | None
    num_bands: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_model(ref: str, folder: Path) -> TrainedModel:
    """Open a model by its manifest, or by a checkpoint (`*.pth`, `*.pt`, `*.ckpt`) that mmsegmentation wrote.

    Args:
        ref: URI or path.
        folder: local folder for the checkpoint, if it must be read.

    Raises:
        StorageError: it cannot be read.
        ContractError: it is neither.
    """
    if ref.endswith(_CHECKPOINTS):
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
        bands=manifest.class_schema.bands,
        num_bands=len(manifest.class_schema.bands),
        mean=manifest.mean,
        std=manifest.std,
    )


def _from_checkpoint(ref: str, folder: Path) -> TrainedModel:
    from landseg.models.checkpoint import is_mmseg_1, read_checkpoint
    from landseg.models.configs import parse_config
    from landseg.models.download import fetch_object
    from landseg.models.preprocessing import find_normalize

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
        raise ContractError(
            ref,
            "expected a checkpoint of mmsegmentation 0.x, whose `meta` holds `config` and `CLASSES`, found only "
            f"{', '.join(sorted(str(key)[:40] for key in meta)[:10]) or 'weights'}",
            "give the manifest of a model that landseg trained, or a checkpoint that mmsegmentation's training wrote",
        )
    config = parse_config(text, ref)
    mean, std = find_normalize(config, ref)
    sha256 = storage.file_sha256(path)
    # A checkpoint's file name gives the epoch, not the model; the backbone does: swin, resnest, resnetv1c.
    backbone = config.model.get("backbone")
    name = (
        str(backbone.get("type", "model") if isinstance(backbone, dict) else "model")
        .lower()
        .removesuffix("transformer")
    )
    return TrainedModel(
        uri=ref,
        name=re.sub(r"[^a-z0-9]+", "-", name)[:63].strip("-") or "model",
        sha256=sha256,
        checkpoint_uri=ref,
        checkpoint_sha256=sha256,
        config=text,
        classes=tuple(map(str, classes)),
        bands=None,
        num_bands=len(mean),
        mean=mean,
        std=std,
    )
