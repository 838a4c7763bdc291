"""What is wrong with single files among images and labels: not to be read as such, too large, misnamed, masked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from landseg.contracts.errors import DataError, printable
from landseg.contracts.names import MAX_TILE_ID_BYTES, odd_characters
from landseg.raw.commands import cutting_command, python_command, quoted
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.strays import counted
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.layout.suffixes import LOSSY_SUFFIXES, MASK_SUFFIX, SUFFIXES, split_suffix
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile, parts_of, paths_of
from landseg.raw.tiff.decoding import MAX_FILE_BYTES

_BY_GDAL = (
    *(".jxl", ".gif", ".img", ".flt", ".bil", ".bip", ".bsq", ".ppm", ".pgm", ".pnm", ".asc", ".ntf", ".nitf", ".pix"),
    *(".rst", ".dem", ".hgt", ".grib", ".grib2"),
)
"""Suffixes of files that GDAL reads whole, where they are not read here."""
_VARIABLES = (".nc", ".nc4")
_ARRAYS = (".h5", ".hdf5", ".hdf", ".he5")
_WRITE_ARRAY = 'planarconfig="contig", photometric="minisblack"'


def unsuitable(where: str, role: str, files: Sequence[SourceFile]) -> DataError:
    """Files among those of a role that cannot be read as such."""
    is_lossy = role == "labels" and any(file.path.lower().endswith(LOSSY_SUFFIXES) for file in files)
    action = "JPEG and its like change class values: export them as PNG" if is_lossy else _conversion(files[0])
    problem = f"expected {role} ({', '.join(SUFFIXES[role])}), found {counted(files)}"
    return DataError(where, problem, f"{action}, and move the originals out")


def _conversion(file: SourceFile) -> str:
    """How to turn a file into a TIFF, with what is installed with landseg."""
    stem, suffix = split_suffix(printable(file.path))
    path, tif = stem + suffix, f"{stem}.tif"
    if suffix in _BY_GDAL:
        return f"convert them to TIFF: rio convert -f GTiff {quoted(path, tif)}"
    if suffix in _VARIABLES:
        return (
            f"convert them to TIFF: rio info --subdatasets {quoted(path)} lists the images in one (none: it is one), "
            f"rio stack --driver GTiff NAME NAME {quoted(tif)} writes those of these names as its bands"
        )
    if suffix in _ARRAYS:
        bands = "numpy.concatenate([rasterio.open(name).read() for name in sys.argv[2:]]).transpose(1, 2, 0)"
        code = f"import sys, numpy, rasterio, tifffile; tifffile.imwrite(sys.argv[1], {bands}, {_WRITE_ARRAY})"
        return (
            f"convert them to TIFF: rio info --subdatasets {quoted(path)} lists the arrays in one, "
            f"{python_command(code, tif)} NAME NAME writes those as bands; "
            "without .transpose(1, 2, 0) where the bands are an array's last dimension"
        )
    if suffix == ".npy":
        code = f"import sys, numpy, tifffile; tifffile.imwrite(sys.argv[2], numpy.load(sys.argv[1]), {_WRITE_ARRAY})"
        return f"convert arrays of (height, width, bands) to TIFF: {python_command(code, path, tif)}"
    return "convert them to TIFF"


def file_problem(file: SourceFile, tile_id: str, other: SourceFile | None) -> tuple[str, str] | None:
    """What is wrong with a file of a tile, and what to do; `other` is the file that has its id already."""
    if not tile_id:
        return "the file's name says nothing but its role", "call it as its tile"
    if other is not None:
        return f"{printable(other.path)} has the same stem", "one image and one label per tile"
    if odd := odd_characters(tile_id):
        return f"the file name holds characters that are not allowed: {', '.join(odd)}", "rename it without them"
    if (size := len(tile_id.encode())) > MAX_TILE_ID_BYTES:
        problem = f"expected a file name of at most {MAX_TILE_ID_BYTES} bytes without its extension, found {size}"
        return problem, "rename it"
    return too_large(file)


def too_large(file: SourceFile) -> tuple[str, str] | None:
    """What is wrong with a file that is larger than any that is read, and what to do."""
    if file.size_bytes <= MAX_FILE_BYTES:
        return None
    problem = f"expected a file of at most {MAX_FILE_BYTES >> 20} MiB, found {file.size_bytes >> 20} MiB"
    return problem, f"cut it, its label or image alike, and move both out: {cutting_command(printable(file.path))}"


def mask_files(
    source: Source, tiles: Mapping[str, Sequence[SourceTile]], files: Sequence[SourceFile], config: DatasetConfig
) -> Iterator[Finding]:
    """Errors of images and labels with a mask in a file of its own, as GDAL writes them: what it leaves out counts.

    An image in files of bands may have one for each; labels that all images share have one error, not one per tile.
    """
    masks = {path.lower().removesuffix(MASK_SUFFIX) for path in paths_of(files) if path.lower().endswith(MASK_SUFFIX)}
    shared: set[str] = set()
    for tile in itertools.chain.from_iterable(tiles.values()) if masks else ():
        images = () if config.nodata == "none" else parts_of(tile.image)
        labels = () if tile.label is None else (tile.label,)
        for file in (*images, *labels):
            if file.path.lower() not in masks or file.path in shared:
                continue
            if is_shared := tile.shares_label and file in labels:
                shared.add(file.path)
            name = printable(file.path.rpartition("/")[2])
            stem, suffix = split_suffix(name)
            code = 'import rasterio.shutil, sys; rasterio.shutil.copy(*sys.argv[1:], driver="GTiff")'
            command = python_command(code, name, f"{stem}{'.tiff' if suffix == '.tif' else '.tif'}")
            problem = f"expected its mask inside of the file, found it in another, {name}{MASK_SUFFIX}"
            if is_shared:
                action = f"write one that has both, and name it in dataset.yaml: {command}"
            elif file in (tile.image, *labels):
                action = f"write one that has both, and move these out: {command}"
            else:  # a band is known by its name
                action = f"write one that has both, move these out, and call it as the first: {command}"
            if file not in labels:
                action += "; or write nodata: none in dataset.yaml, if all pixels are values"
            of_tile = ("", "") if is_shared else (tile.split, tile.id)
            yield Finding.of(DataError(source.where(printable(file.path)), problem, action), *of_tile)
