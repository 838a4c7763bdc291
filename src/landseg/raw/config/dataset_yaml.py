"""`dataset.yaml`: a user's description of a raw dataset, validated and turned into the class schema."""

from __future__ import annotations

from pydantic import ValidationError

from landseg.contracts.dataset import ClassSchema, LabelMap, MappedRange, Scale
from landseg.contracts.errors import DataError
from landseg.contracts.yaml_documents import read_yaml
from landseg.raw.config.fields import DatasetFields
from landseg.raw.config.files import FileFields
from landseg.raw.config.palette import default_palette
from landseg.raw.config.problems import describe_problems
from landseg.raw.config.rules import RangeScale
from landseg.raw.labels.mapping import parse_colour

FILE_NAME = "dataset.yaml"


class DatasetConfig(DatasetFields):
    """The content of `dataset.yaml`, and what follows from it."""

    @property
    def band_numbers(self) -> tuple[int, ...] | None:
        """The selected bands, 1-based; None for all of the images' bands."""
        if self.bands is None or self.band_files:
            return None
        return tuple(band for band in self.bands if isinstance(band, int))

    @property
    def band_files(self) -> tuple[str, ...]:
        """Where each band is a file of its own: their names, with `{id}` for the tile's id."""
        return tuple(band for band in self.bands or () if isinstance(band, str))

    @property
    def shared_labels(self) -> str:
        """The file with the labels of all images; "" where each has its own."""
        return (self.labels and self.labels.file) or ""

    @property
    def resamples_labels(self) -> bool:
        """Whether labels on other grids than their images are resampled."""
        return self.labels is not None and self.labels.resample is not None

    @property
    def says_what_is_ignored(self) -> bool:
        """Whether it says itself which label values are ignored; otherwise 255 is, by default."""
        return self.has_label_map or "ignore_index" in self.model_fields_set

    @property
    def label_map(self) -> LabelMap | None:
        """What stored values and colours mean; None where labels are staged with the values that they have.

        An `ignore_index` that is written beside `label_values` is one more value to ignore.
        """
        if not self.has_label_map and 0 <= self.ignore_index <= 255:
            return None
        ignored: MappedRange = (self.ignore_index, self.ignore_index, None)
        values: tuple[MappedRange, ...] = ()
        if self.label_values is not None:
            values = self.label_values
            if "ignore_index" in self.model_fields_set and not any(a <= self.ignore_index <= b for a, b, _ in values):
                values = (*values, ignored)
        elif self.label_colours is None:
            by_class = (((self.label_offset + index,) * 2 + (name,)) for index, name in enumerate(self.classes))
            values = (*by_class, ignored)
        values = tuple(sorted(values, key=lambda item: item[0]))
        colours = self.label_colours or ()
        return LabelMap(values=values, colours=colours, colour_tolerance=self.colour_tolerance if colours else 0)

    @property
    def class_palette(self) -> tuple[tuple[int, int, int], ...]:
        """One RGB colour per class: from `palette`, else from `label_colours` if that has all, else the defaults."""
        if self.palette is not None:
            return self.palette
        first = {name: colour for colour, name in reversed(self.label_colours or ())}
        if all(name in first for name in self.classes):
            return tuple(parse_colour(first[name]) for name in self.classes)
        return default_palette(len(self.classes))

    def scale_for(self, num_bands: int) -> Scale | None:
        """The fixed scale of the selected bands, in the images' values; None where there is none."""
        if not isinstance(self.scale, RangeScale):
            return None
        repeat = num_bands if len(self.scale.low) == 1 else 1
        return Scale(low=self.scale.low * repeat, high=self.scale.high * repeat, method="range")

    def selected_bands(self, num_bands: int, alpha: int = 0) -> tuple[int, ...]:
        """The 1-based bands that a model sees, in its order.

        Args:
            num_bands: bands of the images.
            alpha: the one that is alpha by its tag; 0 without one.
        """
        every = tuple(band for band in range(1, num_bands + 1) if self.alpha == "band" or band != alpha)
        return self.band_numbers or every

    def class_schema(self, bands: tuple[int, ...], scale: Scale | None) -> ClassSchema:
        """The class schema of a dataset of which `bands` are selected; `scale` is in stored values.

        An ignore_index that would collide with a class id once the offset is subtracted (0 = unlabelled with classes
        1…K) is read as 255. With a label map, labels are staged as class ids, 255 where ignored.
        """
        if self.label_map is not None:
            return ClassSchema(
                classes=self.classes,
                palette=self.class_palette,
                bands=bands,
                scale=scale,
            )
        collides = self.ignore_index < len(self.classes)
        return ClassSchema(
            classes=self.classes,
            palette=self.class_palette,
            ignore_index=255 if collides else self.ignore_index,
            stored_ignore=self.ignore_index if collides else None,
            label_offset=self.label_offset,
            bands=bands,
            scale=scale,
        )


def parse_config(data: bytes, where: object) -> DatasetConfig:
    """Parse `dataset.yaml`.

    Raises:
        ContractError: not YAML.
        DataError: a field is missing, unknown or wrong.
    """
    text = read_yaml(data, where)
    if not isinstance(text.value, dict):
        found = {list: "a list", str: "a text", type(None): "nothing"}.get(type(text.value), "a single value")
        problem = f"expected a mapping with version, name and classes, found {found}"
        raise DataError(where, problem, "write each line as `key: value`; docs/contracts.md shows the fields")
    try:
        return DatasetConfig.model_validate({str(key): value for key, value in text.value.items()})
    except ValidationError as err:
        fields = sorted(DatasetConfig.model_fields, key=lambda name: name in FileFields.model_fields)
        problems = describe_problems(err, text, fields)
        raise DataError(where, problems, "docs/contracts.md shows the fields") from err
