"""What files say of their bands: what they are called, and what their values stand for. Nothing of it changes values.

Images that contradict each other are told: bands in another order, or values of another unit, would be trained on.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import tifffile

from landseg.contracts.errors import DataError, printable
from landseg.raw.commands import file_name, python_command
from landseg.raw.images.pam import sidecar_bands

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_GDAL_METADATA = 42112
_MAX_CHARS = 1 << 18
_ITEM = re.compile(r"<Item\b([^>]*)>([^<]*)</Item>")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']")
_IN_SIDECAR = {
    "description": re.compile(rb"<Description>([^<]{1,999})</Description>"),
    "scale": re.compile(rb"<Scale>([^<]{1,999})</Scale>"),
    "offset": re.compile(rb"<Offset>([^<]{1,999})</Offset>"),
}
"""The elements of an .aux.xml, by the role that an item of a TIFF's header has."""
_NUMBERED = re.compile(r"(?:band|layer)[ _]?0*(\d+)")
"""What programs call bands that nobody has named."""
_SHOWN_CHARS = 30


class BandTags(NamedTuple):
    """What a file says of its bands.

    Attributes:
        names: what they are called, in the file's order, "" for one without a name; () where none has one.
        units: scale and offset of each, by which stored values become those of the unit; () where it declares none.
    """

    names: tuple[str, ...] = ()
    units: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, names: Iterable[str | None], units: Iterable[tuple[float, float]]) -> BandTags:
        """The tags of bands in the file's order, of which some or all may say nothing."""
        called, declared = tuple((name or "").strip() for name in names), tuple(units)
        says_units = any(unit != (1, 0) for unit in declared) and all(math.isfinite(sum(unit)) for unit in declared)
        return cls(called if any(called) else (), declared if says_units else ())

    def joined(self, beside: BandTags) -> BandTags:
        """These, and what a file next to the image says: that counts first, as GDAL takes it."""
        return BandTags(beside.names or self.names, beside.units or self.units)


def tags_of_page(page: tifffile.TiffPage, num_bands: int) -> BandTags:
    """Those in a TIFF's header."""
    text = page.tags.valueof(_GDAL_METADATA)
    if not isinstance(text, str) or len(text) > _MAX_CHARS:
        return BandTags()
    found: dict[tuple[str, int], str] = {}
    for attributes, value in _ITEM.findall(text):
        said = dict(_ATTRIBUTE.findall(attributes))
        if (role := said.get("role", "").lower()) in _IN_SIDECAR and said.get("sample", "").isdecimal():
            found[role, int(said["sample"])] = html.unescape(value)
    return _tags(found, num_bands)


def tags_of_datasets(datasets: Sequence[DatasetReader]) -> BandTags:
    """Those that GDAL reads, of an image whose bands follow each other in some datasets."""
    names = (name for dataset in datasets for name in dataset.descriptions)
    units = (unit for dataset in datasets for unit in zip(dataset.scales, dataset.offsets, strict=True))
    return BandTags.of(names, units)


def tags_of_sidecars(sidecars: Mapping[str, bytes | None], num_bands: int) -> BandTags:
    """Those in an .aux.xml next to an image; see :func:`landseg.raw.images.pam.sidecar_bands`."""
    found: dict[tuple[str, int], str] = {}
    for band, said in sidecar_bands(sidecars):
        for role, element in _IN_SIDECAR.items():
            if value := element.search(said):
                found[role, band - 1] = html.unescape(value[1].decode(errors="replace"))
    return _tags(found, num_bands)


def _tags(found: Mapping[tuple[str, int], str], num_bands: int) -> BandTags:
    bands = range(num_bands)
    units = ((_number(found.get(("scale", band)), 1), _number(found.get(("offset", band)), 0)) for band in bands)
    return BandTags.of((found.get(("description", band)) for band in bands), units)


def _number(text: str | None, default: float) -> float:
    try:
        return default if text is None else float(text)
    except ValueError:
        return default


def check_order(found: BandTags, expected: BandTags, bands: Sequence[int], where: object) -> None:
    """Refuse an image whose bands have the names of the others' in another order.

    Args:
        found: what the image says.
        expected: what most images say, or `dataset.yaml`.
        bands: the selected ones, 1-based: in others, any order will do.
        where: the image, for the error line.

    Raises:
        DataError: their order is another.
    """
    names, wanted = ([name.lower() for name in tags.names] for tags in (found, expected))
    if not names or not all(names) or len(set(names)) < len(names) or sorted(names) != sorted(wanted):
        return
    if all(names[band - 1] == wanted[band - 1] for band in bands):
        return
    name = file_name(where)
    order = [str(names.index(one) + 1) for one in wanted]
    code = (
        "import os, rasterio.shutil, sys; name, target, *bands = sys.argv[1:]; "
        'rasterio.shutil.copy("vrt://" + name + "?bands=" + ",".join(bands), "reordered.tmp", driver="GTiff"); '
        'os.remove(name); os.rename("reordered.tmp", target)'
    )
    command = python_command(code, name, f"{name.rpartition('.')[0]}.tif", *order)
    problem = f"expected the bands {_listed(expected.names)}, in this order, found {_listed(found.names)}"
    raise DataError(where, problem, f"put them in order: {command}")


def other_tags(found: BandTags, expected: BandTags, bands: Sequence[int]) -> str:
    """How an image's selected bands differ from those of most images; "" where nothing contradicts."""
    problems = []
    if found.names and expected.names and not (_are_numbers(found.names) or _are_numbers(expected.names)):
        pairs = [(found.names[band - 1], expected.names[band - 1]) for band in bands]
        if any(one and other and one.lower() != other.lower() for one, other in pairs):
            own, others = zip(*pairs, strict=True)
            problems.append(f"its bands are called {_listed(own)}, those of most images {_listed(others)}")
    if found.units and expected.units:
        own_units, other_units = ([tags.units[band - 1] for band in bands] for tags in (found, expected))
        if own_units != other_units:
            shown, other = _units(own_units), _units(other_units)
            problems.append(f"it declares {shown}, most images {other}: values are taken as they are stored")
    return "; ".join(problems)


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether bands are merely called by their position."""
    found = [_NUMBERED.fullmatch(name.lower()) for name in names]
    return all(match and int(match[1]) == position for position, match in enumerate(found, 1))


def _listed(names: Iterable[str]) -> str:
    return printable(", ".join(name[:_SHOWN_CHARS] or "(no name)" for name in names))


def _units(units: Sequence[tuple[float, float]]) -> str:
    return " / ".join(dict.fromkeys(f"scale {scale:g} and offset {offset:g}" for scale, offset in units))
