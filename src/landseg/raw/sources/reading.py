"""Reading all the files of an image from a source."""

from __future__ import annotations

from dataclasses import replace

from landseg.contracts.errors import DataError
from landseg.raw.georeference.sidecars import MAX_SIDECAR_BYTES
from landseg.raw.images import gdal
from landseg.raw.images.vrt import referenced_files
from landseg.raw.layout.band_files import BandFiles
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.files import ImageFiles
from landseg.raw.sources.source import Source
from landseg.raw.tiff.decoding import MAX_FILE_BYTES


def read_image(source: Source, tile: SourceTile) -> ImageFiles:
    """The bytes of an image's files.

    Raises:
        DataError: one cannot be read, or lies outside the dataset.
    """
    image = _read_image(source, tile)
    if not tile.sidecars:
        return image
    read = {file.path: source.read(file) if file.size_bytes <= MAX_SIDECAR_BYTES else None for file in tile.sidecars}
    return replace(image, sidecars=read)


def _read_image(source: Source, tile: SourceTile) -> ImageFiles:
    if isinstance(tile.image, BandFiles):
        first, *others = (source.read(file) for file in tile.image.bands)
        return ImageFiles(first, bands=tuple(others))
    data = source.read(tile.image)
    if gdal.driver_of(data) != "VRT":
        return ImageFiles(data)
    where = source.where(tile.image.path)
    left = MAX_FILE_BYTES

    def read(path: str) -> bytes:
        nonlocal left
        file = source.file(path)
        if file is None:
            raise DataError(where, f"refers to {path}, which is not in the dataset", "add the file, or build it again")
        left -= file.size_bytes
        if left < 0:
            raise DataError(where, f"refers to more than {MAX_FILE_BYTES >> 20} MiB of files", "cut it into tiles")
        return source.read(file)

    referenced = referenced_files(data, tile.image.path, where, read)
    return ImageFiles(data, path=tile.image.path, referenced=referenced)
