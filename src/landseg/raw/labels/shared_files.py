"""The files of labels that `dataset.yaml` names for all images: which they are, and how they come onto local disk."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from landseg import storage
from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.georeference.sidecars import MAX_SIDECAR_BYTES
from landseg.raw.images.vrt import referenced_files, rewritten
from landseg.raw.labels.headed import with_its_header
from landseg.raw.layout.suffixes import header_names
from landseg.raw.sources.source import PrefixSource, Source
from landseg.raw.sources.source_file import SourceFile

VRT_NAME = "labels.vrt"
"""Of the local file that stands for a virtual raster."""
_SIDECARS = (".dbf", ".shx", ".prj", ".cpg")


def belonging_files(source: Source, config: DatasetConfig) -> set[str]:
    """The paths of the labels that `dataset.yaml` names for all images, and of what belongs to them."""
    path = config.shared_labels
    if "*" in path:
        return {beside.path for file in matching_files(source, path) for beside in (file, *_beside(source, file.path))}
    file = source.file(path) if path else None
    if file is None:
        return {path}
    found = {path} | {other.path for other in _beside(source, path)}
    if path.lower().endswith(".vrt"):
        found |= _members(source, file, source.where(path)).keys()
    return found


def matching_files(source: Source, path: str) -> list[SourceFile]:
    """The file at a path, or the files that a pattern is for, in which `*` stands for any part of a name."""
    if "*" not in path:
        return [file for file in [source.file(path)] if file is not None]
    pattern = re.compile("[^/]*".join(map(re.escape, path.split("*"))))
    return [file for file in source.files() if pattern.fullmatch(file.path)]


def vector_files(source: Source, file: SourceFile, target: Path) -> list[Path]:
    """A file of polygons on local disk, and the other files of a Shapefile next to it.

    Args:
        source: the dataset.
        file: one of its files.
        target: the local file, without a suffix.

    Returns:
        The local files, that of the polygons first.
    """
    parts = [file, *_beside(source, file.path)]
    suffixes = [posixpath.splitext(part.path)[1].lower() for part in parts]
    return [_local(source, part, Path(f"{target}{suffix}")) for part, suffix in zip(parts, suffixes, strict=True)]


def raster_files(source: Source, file: SourceFile, where: str, folder: Path) -> list[Path]:
    """The local files of a raster; of a virtual one, that which refers to the others, and then these.

    Args:
        source: the dataset.
        file: one of its files.
        where: the same, for the error line.
        folder: where local files go; :data:`VRT_NAME` is the only one of them that refers to others.

    Raises:
        DataError: a virtual raster refers to what is not in the dataset, or a raster with a header is damaged.
    """
    if not file.path.lower().endswith(".vrt"):
        return [_with_its_header(source, file, where, folder) or _local(source, file, folder / "labels")]
    members = _members(source, file, where)
    paths = {path: folder / f"labels-{number}" for number, path in enumerate(members)} | {file.path: folder / VRT_NAME}
    names = {path: str(local) for path, local in paths.items()}
    for path, member in {**members, file.path: file}.items():
        if path.lower().endswith(".vrt"):
            paths[path].write_bytes(rewritten(source.read(member), path, names, where))
        else:
            _local(source, member, paths[path])
    return [paths[file.path], *(paths[path] for path in members if not path.lower().endswith(".vrt"))]


def _beside(source: Source, path: str) -> list[SourceFile]:
    """The other files of a Shapefile."""
    stem, suffix = posixpath.splitext(path)
    if suffix.lower() != ".shp":
        return []
    names = [stem + (other.upper() if suffix.isupper() else other) for other in _SIDECARS]
    return [file for file in map(source.file, names) if file is not None]


def _local(source: Source, file: SourceFile, target: Path) -> Path:
    """A file of the source on local disk, under a name that tells its format: a copy, unless it lies in a folder."""
    path = Path(source.uri) / file.path
    if not source.is_remote and path.is_file():
        target.unlink(missing_ok=True)
        target.symlink_to(path.resolve())
    elif isinstance(source, PrefixSource):
        storage.get_file(source.where(file.path), target)
    else:
        target.write_bytes(source.read(file))
    return target


def _members(source: Source, file: SourceFile, where: str) -> dict[str, SourceFile]:
    """The files that a virtual raster refers to, directly or through others, by path."""
    found: dict[str, SourceFile] = {}

    def read(path: str) -> bytes:
        member = source.file(path)
        if member is None:
            raise DataError(where, f"refers to {path}, which is not in the dataset", "add the file, or build it again")
        found[path] = member
        # Only virtual ones are looked into; the others may be large.
        return source.read(member) if path.lower().endswith(".vrt") else b""

    referenced_files(source.read(file), file.path, where, read)
    return found


def _with_its_header(source: Source, file: SourceFile, where: str, folder: Path) -> Path | None:
    """A raster and the header next to it as one local file; None of one that needs none."""
    header = next((found for name in header_names(file.path) if (found := source.file(name)) is not None), None)
    if header is None or header.size_bytes > MAX_SIDECAR_BYTES:
        return None
    data = source.read(file)
    whole = with_its_header(data, source.read(header), where)
    if whole is data:
        return None
    path = folder / "labels"
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    return path
