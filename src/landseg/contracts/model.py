"""What training writes: the model manifest and the description of each checkpoint (docs/contracts.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from landseg.contracts.dataset import BandName, BandNumber, ClassSchema, Nodata, Scale, SourceDtype
from landseg.contracts.documents import Blob, Count, Document, Model, Sha256
from landseg.contracts.names import DatasetId, ModelName

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".pth.tar", ".ckpt", ".safetensors")
"""What a model's address ends in, in letters of either case, where it is a checkpoint; others are manifests, or
references to them."""


def is_checkpoint(ref: str) -> bool:
    """Whether a model's address is that of a checkpoint."""
    return ref.lower().endswith(CHECKPOINT_SUFFIXES)


class ModelInput(Model):
    """The images that a model was trained on: prediction applies it to whatever is staged, or refuses.

    Attributes:
        bands: 1-based band numbers of the files, in the order in which the model takes them.
        band_names: of these bands; empty where not known.
        num_file_bands: bands of the files, all of them; None where not known.
        dtype: of the files' values; None where not known.
        scale: of the files' values, per band of `bands`; None where they are taken as they are (uint8).
        tile_size: (height, width) of the largest training tile; None where not known.
        nodata: what dataset.yaml gave, for all of `bands` or for each; None where the files told, or it is not known.
    """

    bands: Annotated[tuple[BandNumber, ...], Field(min_length=1, max_length=16)]
    band_names: tuple[BandName, ...] = ()
    num_file_bands: BandNumber | None = None
    dtype: SourceDtype | None = None
    scale: Scale | None = None
    tile_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    # Left out where it is None: earlier releases read such manifests too.
    nodata: Nodata | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.bands)) != len(self.bands):
            raise ValueError("bands must differ from each other")
        if len(self.band_names) not in {0, len(self.bands)}:
            raise ValueError(f"expected {len(self.bands)} band names or none, found {len(self.band_names)}")
        if self.scale and not len(self.scale.low) == len(self.scale.high) == len(self.bands):
            raise ValueError("scale needs one low and one high value per band")
        if self.num_file_bands is not None and max(self.bands) > self.num_file_bands:
            raise ValueError(f"band {max(self.bands)} is not one of {self.num_file_bands}")
        return self


class ModelManifest(Document):
    """A trained model. Written last: a model whose manifest exists is complete.

    Attributes:
        name: the model's name in the run, e.g. `swin`.
        checkpoint: an ordinary mmseg checkpoint (`meta`, `state_dict`).
        config: the resolved mmseg config as text: Python assignments of plain values.
        input: the images that it was trained on; None in manifests of earlier releases, which know of them what
            `class_schema` says: bands and scale.
        mean, std: normalisation per band, in the order of `input.bands`, on the 0-255 scale.
        metrics: `mIoU`, `mAcc`, `aAcc` (0-1) and `IoU.<class>` on val; empty where val was trained on or absent.
        parameters: what decided the result, besides the inputs; `precision` among them.
        versions: of python, torch, mmcv, mmseg, landseg.
    """

    kind: Literal["landseg.model"] = "landseg.model"
    version: int = 1
    name: ModelName
    checkpoint: Blob
    config: str
    class_schema: ClassSchema
    input: ModelInput | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metrics: dict[str, float]
    parameters: dict[str, Any]
    versions: dict[str, str]
    dataset_id: DatasetId
    dataset_sha256: Sha256
    seconds: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _normalising_each_band(self) -> Self:
        bands = len((self.input or self.class_schema).bands)
        if not len(self.mean) == len(self.std) == bands:
            raise ValueError(f"expected mean and std of {bands} bands, found {len(self.mean)} and {len(self.std)}")
        if min(self.std) <= 0:
            raise ValueError(f"expected positive values of std, found {min(self.std):g}")
        return self


class CheckpointInfo(Document):
    """Describes a checkpoint. Written last: a checkpoint that has one is complete."""

    kind: Literal["landseg.checkpoint"] = "landseg.checkpoint"
    version: int = 1
    iteration: Count
    epoch: Count
    file: Blob
