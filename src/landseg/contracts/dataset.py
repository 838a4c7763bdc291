"""The dataset manifest: what stored values mean, and what each split holds (docs/contracts.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from landseg.contracts.documents import Blob, Byte, Count, Document, Model, Sha256
from landseg.contracts.label_source import LabelSource
from landseg.contracts.names import ClassName, DatasetId, DatasetName
from landseg.contracts.tile import GeoKeys

SPLITS = ("train", "val", "test")
Split = Literal["train", "val", "test"]
MAX_CLASSES = 255
"""Class ids are bytes, of which one is the ignored value."""
ImageDtype = Literal["uint8", "uint16"]
SourceDtype = Annotated[str, Field(pattern=r"^(u?int(8|16|32|64)|float(16|32|64))$")]
BandNumber = Annotated[int, Field(ge=1, le=16)]
Nodata = float | tuple[float, ...] | Literal["none"]
"""The value of pixels without data, one for all selected bands or one for each; `none`: all pixels have data."""
BandName = Annotated[str, Field(pattern=r"^[^\s,]{1,32}$")]


MappedRange = tuple[int, int, ClassName | None]
"""First and last stored value, and the class that they mean; None: ignored."""
MappedColour = tuple[Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")], ClassName | None]
"""A colour as `#rrggbb`, and the class that it means; None: ignored."""


class LabelMap(Model):
    """What values and colours of the source's labels mean: labels were staged as class ids, 255 where ignored.

    Colours whose channels all differ from those of a listed one by at most `colour_tolerance` mean the same.
    """

    values: tuple[MappedRange, ...] = ()
    colours: tuple[MappedColour, ...] = ()
    colour_tolerance: int = Field(default=0, exclude_if=lambda value: value == 0)


class Scale(Model):
    """How stored band values become the 0-255 range a model sees: `(v - low) * 255 / (high - low)`, clipped to it.

    Clipping is the point of the scale and is asked for in dataset.yaml; without a scale nothing is clipped.

    Attributes:
        low, high: one value per band, in the order of the bands that a model sees.
        method: whether dataset.yaml gives the values (`range`) or they were measured on the tiles (`percentile`); None
            in manifests of earlier releases.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    method: Literal["range", "percentile"] | None = None

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(low >= high for low, high in zip(self.low, self.high, strict=False)):
            raise ValueError("scale needs each low value below its high one")
        return self


class ClassSchema(Model):
    """What the label values mean and which bands a model sees.

    Attributes:
        classes: names; the position is the class id.
        palette: one RGB colour per class.
        ignore_index: value in label arrays, as readers return them, that is neither trained on nor scored.
        stored_ignore: the same in the stored files; it differs if it would collide with a class id once the offset is
            subtracted (0 = unlabelled, with classes 1…K). None: `ignore_index`.
        label_offset: label value of the first class in the stored files; readers subtract it.
        bands: 1-based band numbers of the TIFF, in the order a model sees them.
        scale: see :class:`Scale`; None if values are taken as they are (uint8).
    """

    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=MAX_CLASSES)]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    ignore_index: Byte = 255
    stored_ignore: Byte | None = None
    label_offset: Byte = 0
    bands: Annotated[tuple[BandNumber, ...], Field(min_length=1, max_length=16)]
    scale: Scale | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names must differ from each other")
        if len(self.palette) != len(self.classes):
            raise ValueError(f"expected {len(self.classes)} palette colours, one per class, found {len(self.palette)}")
        if self.ignore_index < len(self.classes):
            raise ValueError(f"ignore_index {self.ignore_index} is also a class id")
        if self.scale and not len(self.scale.low) == len(self.scale.high) == len(self.bands):
            raise ValueError("scale needs one low and one high value per band")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes, the ignored value not counted."""
        return len(self.classes)


class SkippedTile(Model):
    """A bad tile of the source that was left out (`--on-bad-tile skip`), and why."""

    split: Split
    id: str
    problem: str


class Shard(Blob):
    """A plain tar file in WebDataset naming: `<tile id>.tif`, `.png` or `.label.tif`, and `.valid.png` of each tile."""

    num_tiles: Annotated[int, Field(ge=1)]


class SplitInfo(Model):
    """One split: its shards, and the JSON Lines index of its tiles (one `Tile` per line, sorted by id)."""

    num_tiles: Annotated[int, Field(ge=1)]
    labelled: bool
    shards: tuple[Shard, ...]
    index: Blob
    class_pixels: tuple[Count, ...]
    ignored_pixels: Count
    band_mean: tuple[float, ...]
    band_std: tuple[float, ...]


class SourceValues(Model):
    """What the stored values say: `source value = first + step * stored value`, per band in the file's order.

    Attributes:
        dtype: type of the source files' values, by NumPy's name.
        first: the source value that is stored as 0.
        step: what one more stored is worth; 0 for a band that is not selected and was therefore not stored.
    """

    dtype: SourceDtype
    first: tuple[float, ...]
    step: tuple[float, ...]

    def stored_scale(self, scale: Scale, bands: Sequence[int]) -> Scale:
        """A scale of some bands, 1-based, in stored values."""
        return self._turned(scale, bands, lambda value, first, step: (value - first) / step)

    def source_scale(self, scale: Scale, bands: Sequence[int]) -> Scale:
        """A scale of some bands, 1-based, in the source's values."""
        return self._turned(scale, bands, lambda value, first, step: first + step * value)

    def source_moments(
        self, mean: Sequence[float], std: Sequence[float], bands: Sequence[int]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and deviations of some bands, 1-based, in the source's values."""
        steps = [(self.first[band - 1], self.step[band - 1]) for band in bands]
        means = tuple(first + step * value for value, (first, step) in zip(mean, steps, strict=True))
        return means, tuple(step * value for value, (_, step) in zip(std, steps, strict=True))

    def _turned(self, scale: Scale, bands: Sequence[int], turn: Callable[[float, float, float], float]) -> Scale:
        steps = [(self.first[band - 1], self.step[band - 1]) for band in bands]
        low = tuple(turn(value, *step) for value, step in zip(scale.low, steps, strict=True))
        high = tuple(turn(value, *step) for value, step in zip(scale.high, steps, strict=True))
        return scale.model_copy(update={"low": low, "high": high})


class DatasetManifest(Document):
    """A staged dataset. Written last: a dataset whose manifest exists is complete.

    `dataset_id` names the content (schema, tiles and their bytes) and nothing else: neither the time nor the place of
    staging. Band statistics are over the selected bands, in the order of `class_schema.bands`, in stored units.
    `crs` holds the coordinate reference systems, to which tiles refer by position. `band_names` are those of all the
    files' bands, in their order; empty where dataset.yaml gives none. `label_source` is None where labels are files of
    their own. `label_map` is None where labels hold the values
    that `class_schema` describes.

    `source_values` is None where the stored values are those of the source files. `rules` is a digest of what decides,
    besides the files, which bytes are stored; None where all of them are the files' own. `nodata` is dataset.yaml's;
    None where it leaves that to the files.
    """

    kind: Literal["landseg.dataset"] = "landseg.dataset"
    version: int = 1
    dataset_id: DatasetId
    name: DatasetName
    class_schema: ClassSchema
    num_bands: Annotated[int, Field(ge=1, le=16)]
    dtype: ImageDtype
    band_names: tuple[BandName, ...] = ()
    splits: dict[Split, SplitInfo]
    crs: tuple[GeoKeys, ...] = ()
    skipped: tuple[SkippedTile, ...] = ()
    # Left out where they are None: manifests of datasets that need none of them stay what they were.
    label_map: LabelMap | None = Field(default=None, exclude_if=lambda value: value is None)
    label_source: LabelSource | None = Field(default=None, exclude_if=lambda value: value is None)
    source_values: SourceValues | None = Field(default=None, exclude_if=lambda value: value is None)
    nodata: Nodata | None = Field(default=None, exclude_if=lambda value: value is None)
    rules: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
