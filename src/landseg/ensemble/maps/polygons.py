"""Label maps as polygons, in one layer of a GeoPackage.

rasterio draws their outlines (GDAL's polygonize), pyogrio writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import StorageError
from landseg.ensemble.maps.geotiff import MapStyle
from landseg.raw.georeference.crs import quiet_gdal

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

POLYGONS = "polygons.gpkg"
LAYER = "labels"
WINDOW_PX = 2048
"""Maps are outlined this many rows and columns at a time, so that memory does not grow with them."""

_LITTLE_ENDIAN, _POLYGON = 1, 3


def write_polygons(folder: Path, paths: Sequence[str], style: MapStyle) -> int:
    """Write the areas of each class in the label maps of a folder to `polygons.gpkg`, layer `labels`.

    A polygon is an area of one class whose pixels share edges, holes left out; its fields are `class_id`, from 0 on,
    `class`, the name, and `image`, the map's path without `.tif`. Polygons of a map with more than `WINDOW_PX` rows or
    columns end at every `WINDOW_PX`. Where maps overlap, so do their polygons.

    Args:
        folder: where the maps lie, and the file goes.
        paths: of the GeoTIFFs below the folder: of one CRS, see :func:`landseg.ensemble.maps.together.check_together`.
        style: what their values mean.

    Returns:
        How many maps are left out, because they have no transform.

    Raises:
        StorageError: GDAL cannot write the file.
    """
    import rasterio

    target = folder / POLYGONS
    target.unlink(missing_ok=True)
    first = min(style.names)
    num_left_out = 0
    for path in sorted(paths):
        with quiet_gdal(), rasterio.open(folder / path) as file:
            if file.transform.is_identity:
                num_left_out += 1
                continue
            crs = file.crs.to_wkt() if file.crs else None
            for shapes, values in _windows(file, style.nodata):
                names = [style.names[value] for value in values]
                fields = {
                    "class_id": np.array(values, np.int32) - first,
                    "class": np.array(names, object),
                    "image": np.array([path.removesuffix(".tif")] * len(values), object),
                }
                _append(target, shapes, fields, crs)
    return num_left_out


def _windows(file: DatasetReader, nodata: int) -> Iterator[tuple[list[bytes], list[int]]]:
    """The polygons of each window of a map that has any: as WKB, and their values."""
    from rasterio.features import shapes
    from rasterio.windows import Window

    for top in range(0, file.height, WINDOW_PX):
        for left in range(0, file.width, WINDOW_PX):
            window = Window(left, top, min(WINDOW_PX, file.width - left), min(WINDOW_PX, file.height - top))
            labels: NDArray[np.uint8] = file.read(1, window=window)
            found, values = [], []
            for shape, value in shapes(labels, labels != nodata, transform=file.window_transform(window)):
                found.append(_wkb(shape["coordinates"]))
                values.append(int(value))
            if found:
                yield found, values


def _wkb(rings: Sequence[Sequence[tuple[float, float]]]) -> bytes:
    """A polygon, its outline first, then those of its holes."""
    parts = [struct.pack("<BII", _LITTLE_ENDIAN, _POLYGON, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.asarray(ring, "<f8").tobytes()]
    return b"".join(parts)


def _append(target: Path, shapes: Sequence[bytes], fields: dict[str, NDArray[Any]], crs: str | None) -> None:
    import warnings

    import pyogrio

    errors = pyogrio.errors
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            pyogrio.raw.write(
                target,
                np.array(shapes, object),
                list(fields.values()),
                list(fields),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs,
                append=target.exists(),
            )
    except (errors.DataSourceError, errors.DataLayerError, errors.FeatureError) as err:
        raise StorageError(target, f"cannot be written: {err}", "is the disk full?") from err
