"""Write the TIFFs of `foreign.zip` with programs that are not ours: GDAL, libtiff's tools, ImageMagick.

    python tests/raw/make_foreign_tiffs.py      # needs gdal_translate, gdaladdo, tiffcp and convert

A file is named `<bands>-<type>-<what>.tif`. Its pixels are :func:`pattern`, so nothing but the files is kept.
"""

from __future__ import annotations

import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).with_name("foreign.zip")
HEIGHT, WIDTH = 29, 37
TYPES = {"uint8": "Byte", "uint16": "UInt16"}

GDAL = {
    "strips": "-co BLOCKYSIZE=5",
    "planar": "-co INTERLEAVE=BAND",
    "planar-tiles": "-co INTERLEAVE=BAND -co TILED=YES -co BLOCKXSIZE=16 -co BLOCKYSIZE=16",
    "lzw": "-co COMPRESS=LZW -co PREDICTOR=2",
    "deflate": "-co COMPRESS=DEFLATE -co PREDICTOR=2 -co TILED=YES -co BLOCKXSIZE=32 -co BLOCKYSIZE=16",
    "packbits": "-co COMPRESS=PACKBITS",
    "zstd": "-co COMPRESS=ZSTD -co PREDICTOR=2 -co INTERLEAVE=BAND",
    "big-endian": "-co ENDIANNESS=BIG -co COMPRESS=LZW -co PREDICTOR=2",
    "bigtiff": "-co BIGTIFF=YES -co COMPRESS=DEFLATE",
    "bigtiff-big-endian": "-co BIGTIFF=YES -co ENDIANNESS=BIG -co INTERLEAVE=BAND",
    "nodata": "-a_nodata 7",
    "cog": "-of COG -co COMPRESS=ZSTD -co PREDICTOR=YES",
}
RGB = {
    "alpha": "-co ALPHA=YES",
    "jpeg": "-co COMPRESS=JPEG -co JPEG_QUALITY=98 -co PHOTOMETRIC=RGB",
    "jpeg-planar": "-co COMPRESS=JPEG -co JPEG_QUALITY=98 -co INTERLEAVE=BAND",
    "jpeg-ycbcr": "-co COMPRESS=JPEG -co JPEG_QUALITY=98 -co PHOTOMETRIC=YCBCR",
}
LIBTIFF = {
    "tiffcp-jpeg": "-r 16 -c jpeg:98",
    "tiffcp-lzw-separate": "-p separate -c lzw:2",
    "tiffcp-big-endian-bits": "-B -f lsb2msb -c lzw",
    "tiffcp-tiles": "-t -w 16 -l 32 -c zip:2",
}
MAGICK = {"magick-rle": "-compress rle", "magick-plane": "-interlace plane", "magick-msb": "-endian MSB"}
TRANSFORMS = {  # a, b, c, d, e, f as landseg names them
    "geo-utm": (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0),
    "geo-degrees": (0.001, 0.0, 12.5, 0.0, -0.001, 48.25),
    "geo-rotated": (8.0, 6.0, 500000.0, 6.0, -8.0, 5000000.0),
    "geo-south-up": (10.0, 0.0, 500000.0, 0.0, 10.0, 5000000.0),
    "geo-point": (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0),  # the tags give the centre of a pixel
}


def pattern(bands: int, dtype: str) -> np.ndarray:
    """(H, W, bands): slopes that differ by band, gentle enough for JPEG."""
    rows, columns, band = np.ogrid[:HEIGHT, :WIDTH, :bands]
    values = 3 * rows + 2 * columns + 5 * band
    return (values if dtype == "uint8" else 211 * values).astype(dtype)


def run(command: str, *paths: Path) -> None:
    """Run a program on some files."""
    subprocess.run([*command.split(), *map(str, paths)], check=True, stderr=subprocess.DEVNULL)


def make(folder: Path) -> None:
    """Write all files."""
    for dtype, name in TYPES.items():
        for bands in (1, 3, 4, 16):
            raw = folder / f"{bands}-{dtype}"
            pattern(bands, dtype).tofile(raw)
            header = ["ENVI", f"samples={WIDTH}", f"lines={HEIGHT}", f"bands={bands}", "interleave=bip", "byte order=0"]
            raw.with_suffix(".hdr").write_text("\n".join([*header, f"data type={1 if dtype == 'uint8' else 12}"]))
            options = GDAL | (RGB if dtype == "uint8" and bands == 3 else {})
            for what, flags in options.items():
                run(f"gdal_translate -q -ot {name} {flags}", raw, folder / f"{bands}-{dtype}-{what}.tif")
    plain = folder / "3-uint8-strips.tif"
    for what, flags in LIBTIFF.items():
        run(f"tiffcp {flags}", plain, folder / f"3-uint8-{what}.tif")
    for what, flags in MAGICK.items():
        run(f"convert {plain} {flags}", folder / f"3-uint8-{what}.tif")
    for what, (a, b, c, d, e, f) in TRANSFORMS.items():
        shift = 5 if what == "geo-point" else 0
        vrt = folder / "x.vrt"
        run(f"gdal_translate -q -of VRT -a_srs EPSG:{4326 if what == 'geo-degrees' else 32633}", plain, vrt)
        tag = f"<GeoTransform>{c - shift}, {a}, {b}, {f + shift}, {d}, {e}</GeoTransform><SRS"
        vrt.write_text(vrt.read_text().replace("<SRS", tag, 1))
        options = " -mo AREA_OR_POINT=Point" if what == "geo-point" else ""
        run(f"gdal_translate -q{options}", vrt, folder / f"3-uint8-{what}.tif")
    overviews = folder / "3-uint8-overviews.tif"
    run("gdal_translate -q -mask 1 --config GDAL_TIFF_INTERNAL_MASK YES", plain, overviews)
    subprocess.run(["gdaladdo", "-q", str(overviews), "2", "4"], check=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        make(Path(folder))
        for path in sorted(Path(folder).glob("*.tif")):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
