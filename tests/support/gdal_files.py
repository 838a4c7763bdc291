"""Raw images of any kind, written and read with GDAL, and what a staged dataset holds of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from raw_tiles import random_label, write_label

from landseg.raw.tiff.decoding import decode_image

UTM = rasterio.Affine(10, 0, 600000, 0, -10, 5400000)
FORMATS = {
    "a.tif": {},
    "b.png": {"driver": "PNG"},
    "c.jpg": {"driver": "JPEG"},
    "d.jp2": {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"},
    "e.webp": {"driver": "WEBP", "LOSSLESS": True},
    "f.bmp": {"driver": "BMP"},
    "g.tif": {"compress": "LERC", "crs": "EPSG:32633", "transform": UTM},
    "h.tiff": {"compress": "WEBP", "WEBP_LOSSLESS": True, "photometric": "RGB", "blockysize": 24},
    "i.JPEG": {"driver": "JPEG", "QUALITY": 40},
    "j.tif": {"NBITS": 7},
    "o.img": {"driver": "HFA", "crs": "EPSG:32633", "transform": UTM},
    "p.ppm": {"driver": "PNM"},
}
"""File names, and how GDAL writes each."""
SOURCE = """    <SimpleSource>
      <SourceFilename relativeToVRT="{relative}">{path}</SourceFilename>
      <SourceBand>{band}</SourceBand>
      <SrcRect xOff="0" yOff="0" xSize="24" ySize="24" /><DstRect xOff="0" yOff="0" xSize="24" ySize="24" />
    </SimpleSource>"""


def vrt(paths: list[str], *, relative: int = 1, band: int = 1, extra: str = "") -> str:
    """A virtual image of one band of each file."""
    bands = "".join(
        f'  <VRTRasterBand dataType="Byte" band="{number}">\n'
        f"{SOURCE.format(path=path, relative=relative, band=band)}\n  </VRTRasterBand>\n"
        for number, path in enumerate(paths, 1)
    )
    return (
        '<VRTDataset rasterXSize="24" rasterYSize="24">\n  <SRS>EPSG:32633</SRS>\n'
        f"  <GeoTransform>600000, 10, 0, 5400000, 0, -10</GeoTransform>\n{bands}{extra}</VRTDataset>\n"
    )


def write_gdal(path: Path, array: np.ndarray, **options) -> None:
    """Write an (H, W, B) image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = array.shape
    mask = options.pop("mask", None)
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": array.dtype, **options}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
        file.write(array.transpose(2, 0, 1))
        if mask is not None:
            file.write_mask(mask)


def read_gdal(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read().transpose(1, 2, 0)


def write_tile(root: Path, name: str, array: np.ndarray, split: str = "train", **options) -> Path:
    """An image of any kind, with a random label of its size."""
    path = root / split / "images" / name
    write_gdal(path, array, **options)
    write_label(
        root / split / "labels" / f"{path.stem}.png", random_label(1, max(array.shape))[: len(array), : array.shape[1]]
    )
    return path


def staged_bytes(dataset, tile, split: str = "train") -> bytes:
    """The image as it lies in its shard."""
    with dataset.shard_path(split, tile.shard).open("rb") as file:
        file.seek(tile.image[0])
        return file.read(tile.image[1])


def stored(dataset, tile, split: str = "train") -> np.ndarray:
    """(H, W, B): the staged values of all bands."""
    return decode_image(staged_bytes(dataset, tile, split), tile.id)
