"""Labels whose header is a file of its own, as of ENVI: read together, they are one file that has all."""

from __future__ import annotations

import numpy as np

from landseg.raw.images.formats import driver_with_header
from landseg.raw.images.gdal import confined, damage_is_reported
from landseg.raw.images.raster import opened_raster, palette_of
from landseg.raw.tiff.checks import MAX_DECODED_BYTES, check_size

_TIFF = {"driver": "GTiff", "compress": "DEFLATE"}


def with_its_header(data: bytes, header: bytes, where: object) -> bytes:
    """A label as one file.

    Args:
        data: the bytes of its file.
        header: those of the header next to it.
        where: the file, for error lines.

    Returns:
        A TIFF with the same values, palette, nodata value and georeference; the bytes themselves where they are of a
        format that needs no header.

    Raises:
        DataError: truncated, damaged or too large.
    """
    driver, header = driver_with_header(data, header)
    if driver is None or not header:
        return data
    with opened_raster([(data, driver)], where, has_palette=False, headers=[header]) as raster:
        dataset, info = raster.first, raster.info
        check_size(info.height * info.width * info.num_bands * np.dtype(info.dtype).itemsize, where, MAX_DECODED_BYTES)
        palette = palette_of(dataset)
        place = {} if dataset.transform.is_identity else {"transform": dataset.transform, "crs": dataset.crs}
        profile = {**_TIFF, **place, "count": info.num_bands, "height": info.height, "width": info.width}
        if palette is not None and info.dtype == "uint8" and info.num_bands == 1:
            profile["photometric"] = "palette"
        with damage_is_reported(where), confined() as rasterio, rasterio.MemoryFile() as memory:
            with memory.open(**profile, dtype=info.dtype, nodata=dataset.nodata) as file:
                file.write(dataset.read())
                if "photometric" in profile:
                    assert palette is not None, "looked at above"
                    file.write_colormap(1, dict(enumerate(map(tuple, palette.tolist()))))
            return bytes(memory.read())
