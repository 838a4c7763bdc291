"""`labels` of `dataset.yaml`: one file with the labels of all images, and how labels are put onto the images' grids."""

from __future__ import annotations

import posixpath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from landseg.contracts.documents import Model, RelativePath

VECTOR_SUFFIXES = (".geojson", ".json", ".gpkg", ".shp", ".fgb")
_OF_POLYGONS = ("class_field", "class_name", "layer", "values", "outside")
Text = Annotated[str, Field(min_length=1, max_length=200)]


class LabelSource(Model):
    """Where labels come from, where that is not a file per image.

    Attributes:
        file: a raster or a file of polygons that holds the labels of all images, relative to `dataset.yaml`; of
            polygons also a pattern of several files, with `*` for any part of a name.
        class_field: of polygons: the field that tells their classes.
        class_name: of polygons: the class of all of them, where there is no such field.
        layer: of polygons: the layer, where there are several.
        values: of polygons: what the field's values mean, (value, class or `ignore`); None: they are classes' names.
        outside: of polygons: the class of pixels outside of all; None: they are ignored.
        resample: whether rasters whose grid is not that of the image are resampled.
    """

    file: RelativePath | None = None
    class_field: Text | None = None
    class_name: Text | None = Field(default=None, exclude_if=lambda value: value is None)
    layer: Text | None = None
    values: tuple[tuple[str, str], ...] | None = None
    outside: str | None = None
    resample: Literal["nearest"] | None = None

    @field_validator("file")
    @classmethod
    def _normal(cls, value: str | None) -> str | None:
        return None if value is None else posixpath.normpath(value)

    @field_validator("values", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        # Keys that YAML reads as numbers are values of a field of numbers.
        if isinstance(value, dict):
            return tuple(sorted((str(key), name) for key, name in value.items()))
        return (
            tuple(tuple(item) if isinstance(item, list) else item for item in value)
            if isinstance(value, list)
            else value
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        of_polygons = {name: getattr(self, name) for name in _OF_POLYGONS}
        given = [name for name, value in of_polygons.items() if value is not None]
        if given and not self.is_vector:
            raise ValueError(f"{given[0]} is for a file of polygons ({', '.join(VECTOR_SUFFIXES)})")
        if self.class_name is not None and self.class_field is not None:
            raise ValueError(
                "class_name is the class of all polygons, and class_field tells it of each: write one of them"
            )
        if "*" in (self.file or "") and not self.is_vector:
            raise ValueError("file: a pattern is for files of polygons, such as geojson/*.geojson")
        if self.is_vector and self.resample:
            raise ValueError("resample is for rasters: polygons are drawn onto the images' grids")
        return self

    @property
    def is_vector(self) -> bool:
        """Whether the file holds polygons."""
        return self.file is not None and self.file.lower().endswith(VECTOR_SUFFIXES)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of classes that it mentions."""
        return (*(name for _, name in self.values or ()), *(name for name in (self.outside, self.class_name) if name))

    def written(self) -> dict[str, Any]:
        """The fields as a user writes them, without those that are left out."""
        fields = self.model_dump(exclude_none=True)
        return fields | ({"values": dict(self.values)} if self.values else {})
