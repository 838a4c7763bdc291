"""A row of a dataset's tile index: where a tile's bytes are, what they hold, and where it lies (docs/contracts.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Self

from pydantic import Field

from landseg.contracts.documents import Byte, Count, Model, Sha256
from landseg.contracts.names import TileId


class GeoKeys(Model):
    """A coordinate reference system as a GeoTIFF states it: the values of tags 34735, 34736 and 34737."""

    directory: Annotated[tuple[Annotated[int, Field(ge=0, le=65535)], ...], Field(min_length=4, max_length=4096)]
    doubles: Annotated[tuple[float, ...], Field(max_length=4096)] = ()
    ascii: Annotated[str, Field(max_length=16384)] = ""


class Geo(Model):
    """Where a tile lies.

    Attributes:
        crs: position in the manifest's `crs`; None if the file states none.
        transform: (a, b, c, d, e, f): x = a·column + b·row + c, y = d·column + e·row + f; of the corners of pixels.
    """

    crs: Count | None
    transform: tuple[float, float, float, float, float, float]


ControlPoint = tuple[float, float, float, float, float]
"""Column and row in the image, and the x, y and z there."""
MAX_CONTROL_POINTS = 10_000
"""Of one image; a satellite's swath has a few hundred."""


class ControlPoints(Model):
    """Where an image lies that has no transform: ground control points, counted from the corner of its first pixel.

    Attributes:
        crs: position in the manifest's `crs`; None if the file states none.
        points: in the file's order.
    """

    crs: Count | None
    points: Annotated[tuple[ControlPoint, ...], Field(min_length=1, max_length=MAX_CONTROL_POINTS)]


RPC_NUMBERS = 92
"""Of the rational polynomials in a TIFF's tag."""


class Rpc(Model):
    """Where an image lies that has no transform: the rational polynomials of its camera, as TIFF tag 50844 holds them.

    They relate longitude, latitude and height (WGS 84) to rows and columns, so there is no `crs`.

    Attributes:
        coefficients: errors of bias and random error, five offsets, five scales, and four times twenty coefficients.
    """

    coefficients: Annotated[tuple[float, ...], Field(min_length=RPC_NUMBERS, max_length=RPC_NUMBERS)]

    @property
    def crs(self) -> None:
        """See :class:`Geo`."""
        return None


Location = Geo | ControlPoints | Rpc


class SceneWindow(Model):
    """Which part of which scene a tile was cut from: the scene's id and size, the window's first row and column."""

    id: TileId
    y: Count
    x: Count
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]


class Validity(Model):
    """Which pixels of a tile have data: a 1-bit PNG in the shard, 0 where there is none.

    Attributes:
        mask: (byte offset, length) of the PNG's content inside the shard's tar file.
        sha256: of its bytes.
        num_px: pixels that have data.
    """

    mask: tuple[Count, Count]
    sha256: Sha256
    num_px: Count


class Tile(Model):
    """One row of a split's tile index: where the tile's bytes are and what they hold.

    `image` and `label` are (byte offset, length) inside the shard's tar file, pointing at the member's content: the
    unchanged bytes of the source file, its values transcoded, or a tile cut from a scene. `label` is None in an
    unlabelled split, `geo` in a file without georeference, `scene` in a tile that was not cut from a larger image.

    `control_points` are those of an image that has no transform, `rpc` of one that has neither; of a scene, the tile at
    its origin holds them.

    `image_sha256` and `label_sha256` are of the member's content; `source_image_sha256` and `source_label_sha256` are
    those of the source's file where it was transcoded.

    `band_sums` and `band_squares` are the exact sums of the stored values and of their squares over the pixels that
    have data, per band in the file's order; `label_counts` is (stored label value, pixels) by value.

    `validity` is None where every pixel has data. `unused_labels` counts, by stored value, the pixels that the source
    labels although they have no data; in the shard they have the ignored value.
    """

    id: TileId
    shard: Count
    image: tuple[Count, Count]
    label: tuple[Count, Count] | None
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    image_sha256: Sha256
    label_sha256: Sha256 | None
    source_image_sha256: Sha256 | None = None
    source_label_sha256: Sha256 | None = None
    geo: Geo | None = None
    scene: SceneWindow | None = None
    band_sums: tuple[Count, ...] = ()
    band_squares: tuple[Count, ...] = ()
    label_counts: tuple[tuple[Byte, Count], ...] = ()
    validity: Validity | None = None
    unused_labels: tuple[tuple[Byte, Count], ...] = ()
    # Left out where it is None: rows of tiles without them stay what they were.
    control_points: ControlPoints | None = Field(default=None, exclude_if=lambda value: value is None)
    rpc: Rpc | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def location(self) -> Location | None:
        """Where the tile lies, as its file says it; None where it does not."""
        return self.geo or self.control_points or self.rpc

    def moved(self, shard: int, crs: Callable[[int], int]) -> Self:
        """The row with the numbers that its shard and its coordinate reference system have in another manifest."""
        update: dict[str, object] = {"shard": shard}
        for name, location in (("geo", self.geo), ("control_points", self.control_points)):
            if location is not None and location.crs is not None:
                update[name] = location.model_copy(update={"crs": crs(location.crs)})
        return self.model_copy(update=update)

    @property
    def members(self) -> Iterator[tuple[int, int]]:
        """(byte offset, length) of everything that the shard holds of it."""
        yield self.image
        if self.label is not None:
            yield self.label
        if self.validity is not None:
            yield self.validity.mask

    @property
    def num_valid_px(self) -> int:
        """Pixels that have data."""
        return self.height * self.width if self.validity is None else self.validity.num_px
