"""Images in the place of the files of their bands, and what to say of missing bands and of files that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from landseg.contracts.errors import DataError, printable
from landseg.raw.compact_list import CompactList
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.strays import counted
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import BandFiles, SourceFile


class JoinedImages:
    """Appends images to a list, each in the place of the files of its bands.

    Attributes:
        findings: an error for each image that lacks a band.

    Args:
        source: the source.
        split: that of the images; "" where it is not known yet.
        images: the list.
    """

    def __init__(self, source: Source, split: str, images: CompactList[SourceFile]) -> None:
        self._source, self._split, self._images = source, split, images
        self.findings: list[Finding] = []

    def add(
        self, folder: str, tile_id: str, bands: Mapping[int, SourceFile], places: Sequence[tuple[str, str]]
    ) -> None:
        """Join the bands of an image, or note which it lacks.

        Args:
            folder: where the image is to lie.
            tile_id: its id.
            bands: its files by the number of the band.
            places: of every band, the folder that its file lies in and the file's name, `{id}` in place of the id.
        """
        missing = [place for band, place in enumerate(places) if band not in bands]
        if missing:
            self.findings.append(self._missing(tile_id, missing))
            return
        files = tuple(bands[band] for band in range(len(places)))
        name = f"{tile_id}{split_suffix(files[0].path)[1]}"
        self._images.append(BandFiles(_path(folder, name), sum(file.size_bytes for file in files), bands=files))

    def _missing(self, tile_id: str, places: Sequence[tuple[str, str]]) -> Finding:
        folder, name = places[0]
        where = self._source.where(printable(_path(folder, name.replace("{id}", tile_id))))
        more = f", and {len(places) - 1} other bands of this image" if len(places) > 1 else ""
        error = DataError(where, f"expected a file of this band{more}, found none", "add it, or change bands")
        return Finding.of(error, self._split, printable(tile_id))


def unused_files(files: Sequence[SourceFile], place: str) -> list[Finding]:
    """A warning of files that are no band, if there are any.

    Args:
        files: the files.
        place: where they are, as the sentence says it.
    """
    if not files:
        return []
    sentence = f"{counted(files)} {place} are called like none of bands and are not used"
    return [Finding("", f"{sentence}: {printable(files[0].path)}", severity="warning")]


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
