"""File name suffixes: which files are images, which are labels, and which merely look like one or lie next to one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    ".gif",
    ".img",
    ".dat",
    ".bil",
    ".bip",
    ".bsq",
    ".asc",
    ".ppm",
    ".pgm",
    ".pnm",
)
"""Of files that can be read as images."""
LABEL_SUFFIXES = (
    *(".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".img", ".asc", ".pgm", ".dat", ".bil", ".bip", ".bsq"),
)
"""Of files that can be read as labels."""
SUFFIXES = {"images": IMAGE_SUFFIXES, "labels": LABEL_SUFFIXES}
"""By role."""

WORLD_FILE_SUFFIXES = (
    *(".wld", ".tfw", ".tifw", ".tiffw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".j2w", ".jp2w", ".bpw", ".bmpw"),
    *(".wpw", ".webpw", ".gfw", ".gifw", ".igw", ".imgw", ".blw", ".bilw", ".bipw", ".bqw", ".bsqw", ".dtw", ".datw"),
    *(".pmw", ".ppmw", ".pgmw"),
)
"""Of world files: they say where the image next to them lies."""
MASK_SUFFIX = ".msk"
"""Added by GDAL to the name of an image or a label: the file of its mask."""
HEADER_SUFFIX = ".hdr"
"""Of the headers of ENVI and ESRI: they say how the pixels lie in the file next to them."""
WITH_HEADER_SUFFIXES = (".dat", ".bil", ".bip", ".bsq", ".img")
"""Of files that may have such a header."""
_ONLY_WITH_HEADER = (".dat",)
SIDECAR_SUFFIXES = (
    *(*WORLD_FILE_SUFFIXES, HEADER_SUFFIX, ".prj", ".xml", ".ovr", ".rrd", ".aux", ".clr", ".stx", ".sta"),
    *(".txt", ".md", ".json"),
)
"""Of files that GIS programs and people put next to images; they are not tiles."""

LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".jxl", ".webp")
"""Of files whose values are mostly near to what was written, not equal."""

_OTHER_RASTERS = (
    ".jpg .jpeg .jpe .jfif .jp2 .j2k .jpx .jxl .webp .gif .bmp .ppm .pgm .pnm .gtiff .geotiff .cog .vrt .img .ecw .sid "
    ".bil .bip .bsq .flt .hdf .hdf5 .h5 .nc .nc4 .grib .grib2 .asc .dem .hgt .ntf .nitf .pix .rst .npy .npz .mat "
    ".tfrecord"
)
RASTER_SUFFIXES = frozenset((*IMAGE_SUFFIXES, *LABEL_SUFFIXES, *_OTHER_RASTERS.split()))
"""Of files that hold pixels, read or not: none of them is left out without a word."""


def header_names(path: str) -> list[str]:
    """What the header of an image may be called: `a.hdr` or `a.dat.hdr` for `a.dat`; none of other kinds."""
    stem, suffix = split_suffix(path)
    return [stem + HEADER_SUFFIX, path + HEADER_SUFFIX] if suffix in WITH_HEADER_SUFFIXES else []


def headerless(paths: Iterable[str]) -> set[str]:
    """Those of some paths that merely share a suffix with images: a `.dat` is one if it has a header."""
    doubtful, headers = [], set()
    for path in paths:
        if path.lower().endswith(_ONLY_WITH_HEADER):
            doubtful.append(path)
        elif path.lower().endswith(HEADER_SUFFIX):
            headers.add(path.lower())
    return {path for path in doubtful if headers.isdisjoint(header_names(path.lower()))}


def headed(others: Sequence[str], paths: Iterable[str]) -> list[str]:
    """Those of some files that have a header next to them: images of ENVI, whose names may have any suffix or none."""
    if not others:
        return []
    headers = {path.lower() for path in paths if path.lower().endswith(HEADER_SUFFIX)}
    names = {path: {path.lower(), split_suffix(path)[0].lower()} for path in others}
    return [path for path, both in names.items() if {f"{name}{HEADER_SUFFIX}" for name in both} & headers]


def split_suffix(name: str) -> tuple[str, str]:
    """The stem of a file name, and its suffix in lower case with the dot ("" where there is none)."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix.lower()) if stem else (name, "")
