"""GDAL's virtual images, whose XML refers to other files: those of the dataset are read, and no others.

The XML is untrusted. Every element is of a known kind, and every file name is replaced by the path of bytes that were
read from the source, so GDAL has nothing else to open.
"""

from __future__ import annotations

import posixpath
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from landseg.contracts.errors import DataError
from landseg.raw.images import gdal
from landseg.raw.images.formats import check_one_image, driver_of
from landseg.raw.images.raster import Raster, opened_raster
from landseg.raw.sources.files import ImageFiles

MAX_VRT_BYTES = 4 << 20
_MAX_FILES = 4096
_MAX_DEPTH = 4
_SOURCES = {"SimpleSource", "ComplexSource", "AveragedSource", "KernelFilteredSource"}
_ELEMENTS = _SOURCES | {
    *("VRTDataset", "VRTRasterBand", "SRS", "GeoTransform", "GCPList", "GCP", "Metadata", "MDI", "MaskBand"),
    *("SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "NODATA", "NoDataValue", "UseMaskBand"),
    *("ScaleOffset", "ScaleRatio", "Exponent", "SrcMin", "SrcMax", "DstMin", "DstMax", "Clamp", "LUT", "Kernel"),
    *("Size", "Coefs", "ColorInterp", "ColorTable", "Entry", "Description", "UnitType", "Offset", "Scale"),
    *("CategoryNames", "Category", "HideNoDataValue", "Histograms", "HistItem", "HistMin", "HistMax", "BucketCount"),
    *("IncludeOutOfRange", "Approximate", "HistCounts", "BlockXSize", "BlockYSize", "ColorTableComponent", "Overview"),
}
_FILENAME_ATTRIBUTES = {"relativeToVRT", "shared", "relativetoVRT"}
_REFUSED = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)
_OTHER_DRIVERS = re.compile(rb"<(VRTDataset|GDAL_WMS|WCS_GDAL|GDAL_WMTS)")
_HINT = "turn it into a GeoTIFF, and move it out: rio convert -f GTiff IMAGE.vrt IMAGE.tif"


def referenced_files(data: bytes, path: str, where: object, read: Callable[[str], bytes]) -> dict[str, bytes]:
    """The bytes of all files that a virtual image refers to, directly or through others, by path in the source.

    Args:
        data: its XML.
        path: of it in the source.
        where: the same for the error line.
        read: gives the bytes of a path in the source.

    Raises:
        DataError: it refers to something outside the dataset, or is not one of the kinds that are read.
    """
    found: dict[str, bytes] = {}

    def follow(data: bytes, chain: tuple[str, ...]) -> None:
        if len(chain) > _MAX_DEPTH:
            raise DataError(where, "refers to virtual images that refer to others too deeply", _HINT)
        for element in _file_names(_parsed(data, where)):
            name = _resolved(element, chain[-1], where)
            if name in chain:
                raise DataError(where, "refers to itself", _HINT)
            if name not in found:
                if len(found) >= _MAX_FILES:
                    raise DataError(where, f"refers to more than {_MAX_FILES} files", _HINT)
                found[name] = read(name)
                if driver_of(found[name]) == "VRT":
                    follow(found[name], (*chain, name))

    follow(data, (path,))
    return found


@contextmanager
def opened_vrt(files: ImageFiles, where: object) -> Iterator[Raster]:
    """Open a virtual image whose files were read.

    Raises:
        DataError: damaged, or of a kind that is not supported.
    """
    for name, data in files.referenced.items():
        driver = driver_of(data)
        if driver is None or (driver != "VRT" and _OTHER_DRIVERS.search(data[:65536])):
            raise DataError(where, f"refers to {name}, which is no image of a kind that is read", _HINT)
        check_one_image(data, driver, name)
    folder = uuid.uuid4().hex
    paths = {name: gdal.mounted_path(folder, number) for number, name in enumerate(files.referenced)}
    contents = [
        rewritten(data, name, paths, where) if driver_of(data) == "VRT" else data
        for name, data in files.referenced.items()
    ]
    top = rewritten(bytes(files.data), files.path, paths, where)
    with gdal.mounted(folder, contents), opened_raster([(top, "VRT")], where) as raster:
        yield raster


def rewritten(data: bytes, path: str, paths: dict[str, str], where: object) -> bytes:
    """The XML of a virtual image, with other paths in place of those in the source."""
    root = _parsed(data, where)
    for element in _file_names(root):
        name = _resolved(element, path, where)
        if name not in paths:
            raise DataError(where, f"refers to {name}, which was not read with it", _HINT)
        element.text = paths[name]
        element.attrib.clear()
        element.set("relativeToVRT", "0")
    return ET.tostring(root)


def _parsed(data: bytes, where: object) -> ET.Element:
    if len(data) > MAX_VRT_BYTES:
        raise DataError(where, f"expected a VRT of at most {MAX_VRT_BYTES >> 20} MiB", _HINT)
    if _REFUSED.search(data):
        raise DataError(where, "expected a VRT without a document type and entities", _HINT)
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as err:
        raise DataError(where, f"the VRT is damaged: {err}", "copy or write the file again") from err
    for element in root.iter():
        if element.tag not in _ELEMENTS or "subClass" in element.attrib:
            kind = element.attrib.get("subClass", element.tag)
            raise DataError(where, f"a VRT with {str(kind)[:60]} is not read", _HINT)
        if element.tag == "SourceFilename" and set(element.attrib) - _FILENAME_ATTRIBUTES:
            raise DataError(where, "a VRT with options for opening files is not read", _HINT)
    return root


def _file_names(root: ET.Element) -> list[ET.Element]:
    return list(root.iter("SourceFilename"))


def _resolved(element: ET.Element, path: str, where: object) -> str:
    """The path in the source that an element names."""
    name = (element.text or "").strip().replace("\\", "/")
    if not name or name.startswith("/") or "://" in name or re.match(r"[A-Za-z]:", name) or "\0" in name:
        shown = ascii(name[:80])
        raise DataError(
            where,
            f"expected a VRT of files inside the dataset, found a reference to {shown}",
            f"{_HINT}; or build it inside the dataset's folder, with paths relative to it: gdalbuildvrt OUT.vrt IN.tif",
        )
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if found.startswith("../") or found == "..":
        raise DataError(where, "expected a VRT of files inside the dataset, found one that leaves it", _HINT)
    return found
