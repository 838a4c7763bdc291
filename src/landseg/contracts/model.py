"""What training writes: the model manifest and the description of each checkpoint (docs/contracts.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.documents import Blob, Count, Document, Sha256
from landseg.contracts.names import DatasetId, ModelName


class ModelManifest(Document):
    """A trained model. Written last: a model whose manifest exists is complete.

    Attributes:
        name: the model's name in the run, e.g. `swin`.
        checkpoint: an ordinary mmseg checkpoint (`meta`, `state_dict`).
        config: the resolved mmseg config as text: Python assignments of plain values.
        mean, std: normalisation per band, in the order of `class_schema.bands`, on the scale a model sees.
        metrics: `mIoU`, `mAcc`, `aAcc` (0-1) and `IoU.<class>` on val; empty where val was trained on or absent.
        parameters: what decided the result, besides the inputs.
        versions: of python, torch, mmcv, mmseg, landseg.
    """

    kind: Literal["landseg.model"] = "landseg.model"
    version: int = 1
    name: ModelName
    checkpoint: Blob
    config: str
    class_schema: ClassSchema
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metrics: dict[str, float]
    parameters: dict[str, Any]
    versions: dict[str, str]
    dataset_id: DatasetId
    dataset_sha256: Sha256
    seconds: Annotated[float, Field(ge=0)]


class CheckpointInfo(Document):
    """Describes a checkpoint. Written last: a checkpoint that has one is complete."""

    kind: Literal["landseg.checkpoint"] = "landseg.checkpoint"
    version: int = 1
    iteration: Count
    epoch: Count
    file: Blob
