"""The fields of `dataset.yaml`: their types, how each may be written, and what must fit together."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from landseg.contracts.dataset import BandName, MappedColour, MappedRange, Nodata
from landseg.contracts.documents import Byte
from landseg.contracts.label_source import LabelSource
from landseg.contracts.names import ClassName, DatasetName
from landseg.raw.config.files import FileFields
from landseg.raw.config.forms import as_colour, check_band_names, classes_by_id, nodata_values
from landseg.raw.config.rules import RangeScale, ScaleRule, SceneRule
from landseg.raw.labels.mapping import IGNORE, parse_colours, parse_values

MAX_BANDS = 16


class DatasetFields(FileFields):
    """The fields of :class:`landseg.raw.config.dataset_yaml.DatasetConfig`.

    Attributes:
        name: the dataset's name, shown in reports.
        classes: class names; the position is the class id.
        palette: one RGB colour per class, or None for the default colours.
        bands: 1-based bands in the order a model sees them, or None for all; or, where each band is a file of its own,
            the files' names in this order, with `{id}` for the tile's id: `{id}_B04.tif`.
        band_names: names of all bands of the TIFFs, in the files' order. A model finds its bands by them.
        ignore_index: label value, as stored, that is neither trained on nor scored.
        label_offset: label value, as stored, of the first class.
        labels: one file with the labels of all images, or how labels are resampled; None: a label per image, as it is.
        label_values: what stored label values mean, in place of an offset; None without.
        label_colours: what the colours of labels mean; None: the colours of `palette` mean their classes.
        colour_tolerance: how far each channel of a label's colour may be from a colour that means a class.
        scale: how the images' values become 0…255, or None: 8 bits as they are, 16 bits by percentiles 1-99.
        nodata: value of pixels without data, one for all selected bands or one for each, in place of what the files
            declare; `none` if every pixel has data, whatever the files declare.
        alpha: whether a band that is alpha by its tag is a band like the others, or the mask of the pixels with data.
        scenes: which images are cut into tiles, and how.
    """

    version: Literal[1]
    name: DatasetName
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=255)]
    palette: tuple[tuple[Byte, Byte, Byte], ...] | None = None
    bands: Annotated[tuple[int | str, ...], Field(min_length=1, max_length=MAX_BANDS)] | None = None
    band_names: Annotated[tuple[BandName, ...], Field(min_length=1, max_length=MAX_BANDS)] | None = None
    ignore_index: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] = 255
    label_offset: Byte = 0
    # Left out of the dataset's id where they are None: ids of datasets without them stay what they were.
    labels: LabelSource | None = Field(default=None, exclude_if=lambda value: value is None)
    label_values: tuple[MappedRange, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    label_colours: tuple[MappedColour, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    colour_tolerance: Annotated[int, Field(ge=0, le=127)] = Field(default=0, exclude_if=lambda value: value == 0)
    scale: ScaleRule | None = None
    scenes: SceneRule = SceneRule()
    # Left out of the dataset's id where they have their defaults: without them it is what it was before they existed.
    nodata: Nodata | None = Field(default=None, exclude_if=lambda value: value is None)
    alpha: Literal["band", "mask"] = Field(default="band", exclude_if=lambda v: v == "band")

    _by_id = field_validator("classes", mode="before")(classes_by_id)
    _parse_values = field_validator("label_values", mode="before")(parse_values)
    _parse_colours = field_validator("label_colours", mode="before")(parse_colours)
    _nodata_values = field_validator("nodata", mode="before")(nodata_values)

    @field_validator("palette", mode="before")
    @classmethod
    def _as_colours(cls, value: Any) -> Any:
        return tuple(map(as_colour, value)) if isinstance(value, list | tuple) else value

    @field_validator("classes", "palette", "bands", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        # YAML only has lists; a strict tuple field would refuse them.
        if isinstance(value, list):
            return tuple(tuple(item) if isinstance(item, list) else item for item in value)
        return value

    @field_validator("band_names", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        # Of a model that knows no names, the bands are called by their numbers.
        return tuple(str(item) if type(item) is int else item for item in value) if isinstance(value, list) else value

    @field_validator("labels", mode="before")
    @classmethod
    def _file_alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("bands", mode="after")
    @classmethod
    def _numbers_or_files(cls, value: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        check_band_names(value or (), MAX_BANDS)
        return value

    @field_validator("scale", mode="before")
    @classmethod
    def _scale_tuples(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if twice := [name for name in dict.fromkeys(self.classes) if self.classes.count(name) > 1]:
            raise ValueError(f"class names must differ from each other, found {', '.join(twice[:3])} more than once")
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(f"expected {len(self.classes)} palette colours, one per class, found {len(self.palette)}")
        if self.bands is not None and len(set(self.bands)) != len(self.bands):
            raise ValueError("bands must differ from each other")
        if self.band_names is not None and len({name.lower() for name in self.band_names}) != len(self.band_names):
            raise ValueError("band_names must differ from each other")
        if self.last_label > 255:
            raise ValueError(f"label_offset {self.label_offset} and {len(self.classes)} classes exceed label value 255")
        if not self.has_label_map and self.label_offset <= self.ignore_index <= self.last_label:
            raise ValueError(f"ignore_index {self.ignore_index} is also the label value of a class")
        self._check_label_map()
        if self.bands is not None:
            self.check_bands(len(self.bands))
        return self

    @property
    def last_label(self) -> int:
        """Stored label value of the last class."""
        return self.label_offset + len(self.classes) - 1

    @property
    def has_label_map(self) -> bool:
        """Whether it maps values or colours to classes."""
        return self.label_values is not None or self.label_colours is not None

    def check_bands(self, num_bands: int) -> None:
        """Check that scale and nodata have values for this many selected bands.

        Raises:
            ValueError: they have not.
        """
        if isinstance(self.scale, RangeScale) and (given := len(self.scale.low)) not in {1, num_bands}:
            raise ValueError(f"scale needs 1 or {num_bands} low and high values, one per selected band, found {given}")
        if isinstance(self.nodata, tuple) and (given := len(self.nodata)) not in {1, num_bands}:
            raise ValueError(f"nodata needs 1 or {num_bands} values, one per selected band, found {given}")

    def _check_label_map(self) -> None:
        mapped = {
            "labels": [None if name == IGNORE else name for name in (self.labels.class_names if self.labels else ())],
            "label_values": [name for _, _, name in self.label_values or ()],
            "label_colours": [name for _, name in self.label_colours or ()],
        }
        for field, names in mapped.items():
            if not names:
                continue
            if unknown := [name for name in names if name is not None and name not in self.classes]:
                expected = ", ".join((*self.classes[:8], *(("...",) if len(self.classes) > 8 else ()), IGNORE))
                raise ValueError(f"{field}: {unknown[0]} is none of the classes; expected one of {expected}")
            if IGNORE in self.classes:
                raise ValueError(f"{field}: {IGNORE} means that pixels are left out: give the class another name")
            if self.label_offset and field != "labels":
                raise ValueError(f"{field} says what labels mean, and so does label_offset: remove label_offset")
        if self.colour_tolerance and self.label_colours is None:
            raise ValueError("colour_tolerance is for label_colours: write the colours that it goes around there")
        if self.label_values is None and self.label_colours is not None and self.ignore_index != 255:
            raise ValueError(f"label_colours says what labels mean: map a colour to {IGNORE}, and remove ignore_index")
        for first, last, name in self.label_values or ():
            if "ignore_index" in self.model_fields_set and name is not None and first <= self.ignore_index <= last:
                raise ValueError(f"ignore_index {self.ignore_index} is also a value of {name} in label_values")
