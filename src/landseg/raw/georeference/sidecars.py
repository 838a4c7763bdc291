"""Files next to an image: world file, .prj and .aux.xml, which say where it lies, read as GDAL reads them; headers."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from landseg.contracts.tile import GeoKeys
from landseg.raw.georeference.crs import control_points_of, keys_of, quiet_gdal
from landseg.raw.georeference.tags import PIXEL_COORDINATES, Georeference, Transform
from landseg.raw.layout.suffixes import HEADER_SUFFIX, WORLD_FILE_SUFFIXES, header_names
from landseg.raw.sources.source_file import BandFiles, HeadedFile, SourceFile, paths_of

MAX_SIDECAR_BYTES = 4 << 20
"""Larger ones are not read; statistics and attribute tables take kilobytes."""
_STUB = (  # a TIFF of one black pixel, for GDAL to read an .aux.xml next to it
    b"II*\0\x08\0\0\0\x08\0\0\x01\3\0\1\0\0\0\1\0\0\0\1\1\3\0\1\0\0\0\1\0\0\0\2\1\3\0\1\0\0\0\x08\0\0\0\3\1\3\0\1\0\0\0\1\0\0\0"
    b"\6\1\3\0\1\0\0\0\1\0\0\0\x11\1\4\0\1\0\0\0\x6e\0\0\0\x16\1\3\0\1\0\0\0\1\0\0\0\x17\1\4\0\1\0\0\0\1\0\0\0\0\0\0\0\0\0"
)
_GEOREFERENCES = (b"<SRS", b"<GeoTransform", b"<GCPList", b"GeodataXform")


def list_sidecars(files: Sequence[SourceFile]) -> dict[str, SourceFile]:
    """The files that may be an image's header or say where it lies, by path in lower case."""
    found = {}
    for number, path in enumerate(map(str.lower, paths_of(files))):
        if path.endswith((".prj", ".aux.xml", HEADER_SUFFIX, *WORLD_FILE_SUFFIXES)):
            found[path] = files[number]
    return found


def sidecars_of(path: str, listed: Mapping[str, SourceFile]) -> tuple[SourceFile, ...]:
    """The sidecars of an image: those that say where it lies, and its header (`a.hdr` for `a.dat`)."""
    headers = [listed[name] for name in header_names(path.lower()) if name in listed]
    return (*place_sidecars_of(path, listed), *headers[:1])


def place_sidecars_of(path: str, listed: Mapping[str, SourceFile]) -> tuple[SourceFile, ...]:
    """The files that say where an image or a label lies.

    `a.tfw`, `a.tifw` or `a.wld`, `a.prj` and `a.tif.aux.xml` for `a.tif`, in any case.
    """
    *world, prj, aux = _place_names(path.lower())
    names = [name for name in world if name in listed][:1]
    return tuple(listed[name] for name in (*names, prj, aux) if name in listed)


def with_header(file: SourceFile, listed: Mapping[str, SourceFile]) -> SourceFile:
    """A label, or an image in one file for each band, with the headers next to its files where there are any."""
    if isinstance(file, BandFiles):
        bands = tuple(with_header(band, listed) for band in file.bands)
        return file if bands == file.bands else replace(file, bands=bands)
    header = next((listed[name] for name in header_names(file.path.lower()) if name in listed), None)
    if header is None:
        return file
    return HeadedFile(file.path, file.size_bytes, file.offset, file.version, header)


def sidecar_names(path: str) -> list[str]:
    """What sidecars of an image may be called."""
    return [*_place_names(path), *header_names(path)]


def _place_names(path: str) -> list[str]:
    """World files in GDAL's order, of which one counts, .prj and .aux.xml."""
    stem, _, suffix = path.rpartition(".")
    world = (f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w", "wld")
    return [*(f"{stem}.{name}" for name in (*world, "prj")), f"{path}.aux.xml"]


def with_sidecars(
    own: Georeference, files: Iterable[tuple[str, bytes | None]]
) -> tuple[Georeference, list[tuple[str, str]]]:
    """Add what sidecars say to an image's own georeference.

    An .aux.xml counts before the image itself, which counts before a world file and a .prj, as for GDAL (which reads
    no .prj next to a TIFF).

    Args:
        own: what the image itself says.
        files: path and bytes of each sidecar; None of one that is too large to be read.

    Returns:
        The georeference; and what is wrong with sidecars that are left out: path and problem.
    """
    transform, crs, points, rpc = own
    problems = []
    for path, data in files:
        name = path.lower()
        if name.endswith(HEADER_SUFFIX):  # it says how the pixels lie
            continue
        try:
            if data is None:
                raise _NotUnderstood(f"expected at most {MAX_SIDECAR_BYTES >> 20} MiB, found more")
            if name.endswith(".aux.xml"):
                found = _read_aux(data)
                transform, crs = found.transform or transform, found.crs or crs
                points = found.control_points or points
            elif name.endswith(".prj"):
                crs = crs or _read_prj(data)
            else:
                transform = transform or _read_world_file(data)
        except _NotUnderstood as err:
            problems.append((path, str(err)))
    points = () if transform else points
    return Georeference(transform, crs, points, () if transform or points else rpc), problems


class _NotUnderstood(Exception):  # noqa: N818
    """A sidecar says nothing that can be used."""


def _read_world_file(data: bytes) -> Transform:
    """Six numbers, of which the last two are the centre of the first pixel; a comma may stand for the point."""
    words = data[:4096].decode("latin-1").replace(",", ".").split()
    try:
        a, d, b, e, x, y = map(float, words[:6])
    except ValueError:
        raise _NotUnderstood("expected the six numbers of a world file, found something else") from None
    if a * e - b * d == 0 or not all(abs(value) < float("inf") for value in (a, b, d, e, x, y)):
        raise _NotUnderstood("expected a world file, found one whose pixels have no size")
    return a, b, x - (a + b) / 2, d, e, y - (d + e) / 2


def _read_prj(data: bytes) -> GeoKeys:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with quiet_gdal():
            keys = keys_of(CRS.from_wkt(data.decode("utf-8-sig", "replace").strip(), morph_from_esri_dialect=True))
    except CRSError:
        raise _NotUnderstood("expected a coordinate reference system in WKT, found something else") from None
    if keys is None:
        raise _NotUnderstood("holds a coordinate reference system that a GeoTIFF cannot express")
    return keys


def _read_aux(data: bytes) -> Georeference:
    from rasterio import open as open_dataset
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    if not any(word in data for word in _GEOREFERENCES):
        return Georeference()  # statistics, histograms, metadata
    folder = uuid.uuid4().hex
    try:
        with quiet_gdal(), ExitStack() as stack:
            stub = stack.enter_context(MemoryFile(_STUB, dirname=folder, filename="stub.tif"))
            stack.enter_context(MemoryFile(data, dirname=folder, filename="stub.tif.aux.xml"))
            dataset = stack.enter_context(open_dataset(stub.name, driver="GTiff", sharing=False))
            transform: Transform | None = tuple(dataset.transform)[:6]
            crs = keys_of(dataset.crs) if dataset.crs else None
            points, points_crs = control_points_of(dataset)
    except RasterioError:
        transform, crs, points, points_crs = None, None, (), None
    if transform in PIXEL_COORDINATES:
        transform = None
    if transform is None and points:
        return Georeference(None, crs or points_crs, points)
    if transform is None and crs is None:
        raise _NotUnderstood("expected a georeference as GDAL or ArcGIS writes it, found none that can be used")
    return Georeference(transform, crs)
