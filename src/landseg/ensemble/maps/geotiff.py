"""Maps as Cloud Optimized GeoTIFFs: what a GIS needs to draw and understand them lies in one file.

A map of a single block is one as soon as its header comes first; larger ones get tiles, overviews and their order from
GDAL. The same map has the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import tifffile
from numpy.typing import NDArray

from landseg import __version__
from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import StorageError
from landseg.contracts.tile import GeoKeys, Location
from landseg.raw.georeference.crs import quiet_gdal
from landseg.raw.georeference.tags import geo_tags

BLOCK_PX = 512
VALUE_STEPS = 254
"""A map of values from 0 to 1 holds 254 times the value, rounded."""
NO_VALUE = 255
"""In a map of values, a pixel without data."""

_METADATA, _NODATA = 42112, 42113
_ASCII = 2
_BIGTIFF_PX = 1 << 31
_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class MapStyle:
    """What the values of a map mean.

    Attributes:
        nodata: the value of pixels without data.
        names: of the values that are classes.
        colours: RGB of each value from 0 on; empty for grey.
        step: what one more means, in a map of values; 0 for classes.
        facts: where the map comes from.
    """

    nodata: int
    names: Mapping[int, str] = field(default_factory=dict)
    colours: tuple[tuple[int, int, int], ...] = ()
    step: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)


def label_style(schema: ClassSchema, facts: Mapping[str, str]) -> MapStyle:
    """The style of a label map: values as in the dataset's labels."""
    offset = schema.label_offset
    return MapStyle(
        nodata=nodata_label(schema),
        names={offset + class_id: name for class_id, name in enumerate(schema.classes)},
        colours=((0, 0, 0),) * offset + schema.palette,
        facts=facts,
    )


def value_style(facts: Mapping[str, str]) -> MapStyle:
    """The style of a map of values from 0 to 1."""
    return MapStyle(nodata=NO_VALUE, step=1 / VALUE_STEPS, facts=facts)


def nodata_label(schema: ClassSchema) -> int:
    """The label value of pixels without data: 255, or 0 where 255 is a class."""
    return 255 if schema.label_offset + schema.num_classes <= 255 else 0


def encode_map(values: NDArray[np.uint8], style: MapStyle, geo: Location, crs: tuple[GeoKeys, ...]) -> bytes:
    """A map as a GeoTIFF.

    Args:
        values: (H, W) uint8.
        style: what they mean.
        geo: where the map lies.
        crs: the manifest's `crs`.
    """
    if max(values.shape) > BLOCK_PX:
        from rasterio.io import MemoryFile

        buffer = io.BytesIO()
        _write_tiled(buffer, [values], (values.shape[0], values.shape[1]), style, geo, crs)
        with quiet_gdal(), MemoryFile(buffer.getvalue(), ext=".tif") as source, MemoryFile(ext=".tif") as target:
            _optimise(source.name, target.name, style)
            return bytes(target.read())
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, rowsperstrip=values.shape[0], **_options(style, geo, crs))
    return buffer.getvalue()


def write_map(
    path: Path,
    rows: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int],
    style: MapStyle,
    geo: Location | None,
    crs: tuple[GeoKeys, ...],
) -> None:
    """Write a map of any size as a GeoTIFF; memory holds a few rows of it.

    Args:
        path: the file. What is needed on the way lies next to it.
        rows: parts of the map from top to bottom, (any rows, width) uint8.
        shape: (height, width) of the whole.
        style: what the values mean.
        geo: where the map lies, if that is known.
        crs: the manifest's `crs`.

    Raises:
        StorageError: GDAL cannot write the file.
    """
    if max(shape) <= BLOCK_PX:
        tifffile.imwrite(path, np.concatenate(list(rows)), rowsperstrip=shape[0], **_options(style, geo, crs))
        return
    plain = path.with_suffix(".plain.tif")
    try:
        with plain.open("wb") as file:
            _write_tiled(file, rows, shape, style, geo, crs)
        with quiet_gdal():
            _optimise(str(plain), str(path), style)
    finally:
        plain.unlink(missing_ok=True)


def encode_names(style: MapStyle) -> bytes:
    """The class names as GDAL's `<map>.aux.xml` holds them: category names, and an attribute table with colours."""
    names = [style.names.get(value, "") for value in range(max(style.names) + 1)]
    columns = (("Value", 0, 0), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))  # name, type, usage
    lines = ["<PAMDataset>", '  <PAMRasterBand band="1">', "    <CategoryNames>"]
    lines += [f"      <Category>{escape(name)}</Category>" for name in names]
    lines += ["    </CategoryNames>", '    <GDALRasterAttributeTable tableType="thematic">']
    for index, (column, kind, usage) in enumerate(columns):
        inner = f"<Name>{column}</Name><Type>{kind}</Type><Usage>{usage}</Usage>"
        lines.append(f'      <FieldDefn index="{index}">{inner}</FieldDefn>')
    for index, (value, name) in enumerate(style.names.items()):
        cells = "".join(f"<F>{escape(str(cell))}</F>" for cell in (value, name, *style.colours[value]))
        lines.append(f'      <Row index="{index}">{cells}</Row>')
    lines += ["    </GDALRasterAttributeTable>", "  </PAMRasterBand>", "</PAMDataset>", ""]
    return "\n".join(lines).encode()


def _optimise(source: str, target: str, style: MapStyle) -> None:
    from rasterio.env import Env
    from rasterio.shutil import copy

    options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": str(BLOCK_PX), "NUM_THREADS": "1", "BIGTIFF": "IF_SAFER"}
    options["OVERVIEW_RESAMPLING"] = "MODE" if style.names else "AVERAGE"
    try:
        with Env(GDAL_CACHEMAX=_CACHE_BYTES, GDAL_PAM_ENABLED="NO"):
            copy(source, target, driver="COG", **options)
            _check_copy(source, target)
    except Exception as err:  # of GDAL's own kinds
        raise StorageError(target, f"the map cannot be written: {err}", "is the disk full?") from err


def _check_copy(source: str, target: str) -> None:
    """Read back what was copied: where a disk is full, GDAL may go on without a word, and leave a part of the file.

    Raises:
        ValueError: the values are not the source's.
        Exception: of GDAL's own kinds, where they or those of an overview cannot be read.
    """
    import rasterio

    with rasterio.open(source) as plain, rasterio.open(target) as copied:
        for window in _strips(plain.shape):
            if not np.array_equal(plain.read(1, window=window), copied.read(1, window=window)):
                raise ValueError("what was written is not what is read")
        num_overviews = len(copied.overviews(1))
    for level in range(num_overviews):
        with rasterio.open(target, overview_level=level) as overview:
            for window in _strips(overview.shape):
                overview.read(1, window=window)


def _strips(shape: tuple[int, int]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Windows of all columns, a block high."""
    return (((top, min(top + BLOCK_PX, shape[0])), (0, shape[1])) for top in range(0, shape[0], BLOCK_PX))


def _write_tiled(
    file: BinaryIO,
    rows: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int],
    style: MapStyle,
    geo: Location | None,
    crs: tuple[GeoKeys, ...],
) -> None:
    """A tiled GeoTIFF that GDAL copies from."""
    tifffile.imwrite(
        file,
        _tiles(rows, shape),
        shape=shape,
        dtype=np.uint8,
        tile=(BLOCK_PX, BLOCK_PX),
        compressionargs={"level": 1},
        bigtiff=shape[0] * shape[1] > _BIGTIFF_PX,
        **_options(style, geo, crs),
    )


def _options(style: MapStyle, geo: Location | None, crs: tuple[GeoKeys, ...]) -> dict[str, Any]:
    """What tifffile is told of a map in addition to its values."""
    tags = [*geo_tags(geo, crs), (_NODATA, _ASCII, 0, str(style.nodata).encode(), True)]
    tags.append((_METADATA, _ASCII, 0, _metadata(style), True))
    options: dict[str, Any] = {"compression": "adobe_deflate", "metadata": None, "extratags": tags}
    options["software"] = f"landseg {__version__}"
    if not style.colours:
        return options | {"photometric": "minisblack"}
    colours = np.zeros((3, 256), np.uint16)
    colours[:, : len(style.colours)] = np.array(style.colours, np.uint16).T * 257
    return options | {"photometric": "palette", "colormap": colours}


def _metadata(style: MapStyle) -> bytes:
    """GDAL's metadata: provenance, class names by value, and the step of values."""
    # Texts are escaped twice, as GDAL itself does: it unescapes what its XML parser has unescaped already.
    items = [f"<Item name={quoteattr(name)}>{escape(escape(text))}</Item>" for name, text in style.facts.items()]
    items += [f'<Item name="CLASS_{value}">{escape(escape(name))}</Item>' for value, name in style.names.items()]
    if style.step:
        items.append(f'<Item name="SCALE" sample="0" role="scale">{style.step!r}</Item>')
    return "\n".join(["<GDALMetadata>", *(f"  {item}" for item in items), "</GDALMetadata>", ""]).encode()


def _tiles(rows: Iterable[NDArray[np.uint8]], shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Cut rows into TIFF tiles, row by row, padded at the right and bottom."""
    height, width = shape
    across = math.ceil(width / BLOCK_PX)
    buffer = np.zeros((0, width), np.uint8)
    given = 0

    def flush(band: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        padded = np.zeros((BLOCK_PX, across * BLOCK_PX), np.uint8)
        padded[: band.shape[0], :width] = band
        for column in range(across):
            yield padded[:, column * BLOCK_PX : (column + 1) * BLOCK_PX]

    for part in rows:
        buffer = np.concatenate([buffer, part])
        while buffer.shape[0] >= BLOCK_PX:
            yield from flush(buffer[:BLOCK_PX])
            buffer, given = buffer[BLOCK_PX:], given + BLOCK_PX
    if buffer.shape[0]:
        yield from flush(buffer)
    assert given + buffer.shape[0] == height, f"expected {height} rows, got {given + buffer.shape[0]}"
