"""File name suffixes: which files are images, which are labels, and which merely look like one or lie next to one."""

from __future__ import annotations

IMAGE_SUFFIXES = (
    ".tif",
    ".tiff",
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".jp2",
    ".j2k",
    ".jpx",
    ".vrt",
    ".webp",
    ".bmp",
)
"""Of files that can be read as images."""
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2")
"""Of files that can be read as labels."""
SUFFIXES = {"images": IMAGE_SUFFIXES, "labels": LABEL_SUFFIXES}
"""By role."""

WORLD_FILE_SUFFIXES = (
    *(".wld", ".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".j2w", ".jp2w", ".bpw", ".bmpw"),
    *(".wpw", ".webpw"),
)
"""Of world files: they say where the image next to them lies."""
SIDECAR_SUFFIXES = (*WORLD_FILE_SUFFIXES, ".prj", ".xml", ".ovr", ".txt", ".md", ".json")
"""Of files that GIS programs and people put next to images; they are not tiles."""

LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".jxl", ".webp")
"""Of files whose values are mostly near to what was written, not equal."""

_OTHER_RASTERS = (
    ".jpg .jpeg .jpe .jfif .jp2 .j2k .jpx .jxl .webp .gif .bmp .ppm .pgm .pnm .gtiff .geotiff .cog .vrt .img .ecw .sid "
    ".bil .bip .bsq .hdf .hdf5 .h5 .nc .nc4 .grib .grib2 .asc .dem .hgt .ntf .nitf .pix .rst .npy .npz .mat .tfrecord"
)
RASTER_SUFFIXES = frozenset((*IMAGE_SUFFIXES, *LABEL_SUFFIXES, *_OTHER_RASTERS.split()))
"""Of files that hold pixels, read or not: none of them is left out without a word."""


def split_suffix(name: str) -> tuple[str, str]:
    """The stem of a file name, and its suffix in lower case with the dot ("" where there is none)."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix.lower()) if stem else (name, "")
