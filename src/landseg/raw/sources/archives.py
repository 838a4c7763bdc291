"""Raw datasets in a `.zip` or `.tar` file, read in place: nothing is unpacked, so nothing can land outside a folder.

Archives are untrusted input. Members with absolute paths or `..`, links and devices are refused, as are encrypted
members and archives that would unpack to far more than their size.
"""

from __future__ import annotations

import functools
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from landseg import storage
from landseg.contracts.errors import DataError, StorageError
from landseg.contracts.names import odd_characters
from landseg.raw.sources.file_start import read_start
from landseg.raw.sources.source import LAYOUT_HINT, FolderSource, PrefixSource, Source, SourceFile

_MAX_RATIO = 200
_ALWAYS_ALLOWED_BYTES = 1 << 30
_DRIVE = re.compile(r"[A-Za-z]:([/\\]|$)|[A-Za-z]:.*\\")
_NO_LINKS = "pack the files themselves: tar --dereference --hard-dereference"
_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@dataclass(frozen=True)
class ArchiveSource(Source):
    """A `.zip` or `.tar` file.

    The list of its members and the open file stay with the object; a pickled copy opens the file when it first reads.

    Attributes:
        path: the local file.
        is_zip: whether it is a zip; otherwise it is a tar.
        prefix: the folder inside that is the source, "" or ending with a slash.

    Raises:
        DataError: it is damaged, or a member is not safe.
    """

    path: Path
    is_zip: bool
    prefix: str = ""

    def __post_init__(self) -> None:
        if not self.prefix:
            len(self._members)  # a damaged archive fails here

    def __getstate__(self) -> dict[str, Any]:
        """What the archive is, without what was read of it."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @functools.cached_property
    def _members(self) -> tuple[SourceFile, ...]:
        """The regular files of the archive."""
        try:
            found = tuple(
                _zip_members(self._zip, self.path, self.uri) if self.is_zip else _tar_members(self.path, self.uri)
            )
        except DataError:
            raise
        except Exception as err:  # both modules raise all kinds of errors on damaged archives
            raise self._no_archive(err) from err
        if not found:
            raise DataError(self.uri, "the archive is empty", LAYOUT_HINT)
        names = {file.path for file in found}
        if len(names) != len(found):
            raise DataError(self.uri, "the archive holds several members with the same name", "pack it again")
        return found

    def _no_archive(self, err: Exception) -> DataError:
        with self.path.open("rb") as file:
            found, action = read_start(file.read(1024))
        kind = "zip" if self.is_zip else "tar"
        if found == f"a {kind} archive":
            found, action = f"one that is truncated or damaged ({err})", "copy or pack it again"
        elif action == "unpack it" and found in ("a zip archive", "a tar archive"):
            action = f"rename it to .{found.split()[1]}"
        return DataError(self.uri, f"expected a {kind} archive, found {found}", action or "pack the folder again")

    @functools.cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    @functools.cached_property
    def _foreign_names(self) -> dict[str, str]:
        """The names of a zip's members, by path, where they are written in another way: with backslashes, say."""
        names = ((_path(member.filename), member.filename) for member in self._zip.infolist())
        return {path: name for path, name in names if path != name}

    def files(self) -> list[SourceFile]:
        """See :meth:`Source.files`."""
        found = [
            SourceFile(file.path.removeprefix(self.prefix), file.size_bytes, file.offset)
            for file in self._members
            if file.path.startswith(self.prefix)
        ]
        return sorted(found, key=lambda file: file.path)

    def folders(self) -> set[str]:
        """See :meth:`Source.folders`; an archive does not tell an empty split from an absent one."""
        return set()

    def inside(self, folder: str) -> ArchiveSource:
        """See :meth:`Source.inside`."""
        source = ArchiveSource(self.uri, self.path, self.is_zip, f"{self.prefix}{folder}/")
        vars(source)["_members"] = self._members  # there may be millions
        return source

    def read(self, file: SourceFile) -> bytes:
        """See :meth:`Source.read`."""
        try:
            if not self.is_zip:
                with self.path.open("rb") as archive:
                    archive.seek(file.offset)
                    content = archive.read(file.size_bytes)
            else:
                name = self.prefix + file.path
                with self._zip.open(self._foreign_names.get(name, name)) as member:
                    content = member.read(file.size_bytes + 1)
        except Exception as err:  # zipfile's decoders raise all kinds of errors on damaged members
            raise DataError(self.where(file.path), f"the archive is damaged: {err}", "pack it again") from err
        if len(content) != file.size_bytes:
            raise DataError(
                self.where(file.path), f"expected {file.size_bytes} bytes, found {len(content)}", "pack it again"
            )
        return content


def open_source(uri: str, scratch: Path) -> Source:
    """The source behind `--source`.

    Args:
        uri: a folder, an `s3://` prefix, or a `.zip` or `.tar` in either place.
        scratch: where an archive from object storage is downloaded to.

    Raises:
        DataError: there is none, or an archive that cannot be read safely.
        StorageError: there is no room for an archive.
    """
    name = uri.rstrip("/")
    if name.lower().endswith(_COMPRESSED_TAR):
        raise DataError(
            uri, "reading any file of a compressed tar means unpacking all of it", "give a .zip or a plain .tar"
        )
    is_s3 = storage.is_s3(uri)
    if not name.lower().endswith((".zip", ".tar")) or (not is_s3 and Path(uri).is_dir()):
        if not is_s3 and Path(uri).is_file():
            raise _no_source(uri)
        return PrefixSource(name) if is_s3 else FolderSource(str(Path(uri).resolve()))
    if is_s3:
        path = scratch / "source"
        info = storage.stat(name)
        if info is not None and info.size_bytes > (room := storage.scratch_room(scratch)):
            problem = f"expected room for its {info.size_bytes} bytes in the scratch folder, found {room}"
            raise StorageError(name, problem, "unpack it in object storage, or give a larger --scratch")
        storage.get_file(name, path)
    else:
        path = Path(uri).resolve()
        name = str(path)
    if not path.is_file():
        raise DataError(uri, "no such archive")
    return ArchiveSource(name, path, is_zip=name.lower().endswith(".zip"))


def _no_source(uri: str) -> DataError:
    """A file that is no archive."""
    expected = "expected a folder, a .zip or a .tar"
    if Path(uri).suffix.lower() in (".yaml", ".yml"):
        return DataError(uri, f"{expected}, found a file", "give the folder that holds it")
    with Path(uri).open("rb") as file:
        found, action = read_start(file.read(1024))
    if found in ("a zip archive", "a tar archive"):
        action = f"call it .{found.split()[1]}"
    return DataError(uri, f"{expected}, found {found}", action or "give the folder that holds the dataset")


def _zip_members(archive: zipfile.ZipFile, path: Path, uri: str) -> Iterator[SourceFile]:
    members = archive.infolist()
    unpacked, packed = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > max(_ALWAYS_ALLOWED_BYTES, _MAX_RATIO * packed):
        raise DataError(uri, f"the archive would unpack from {packed} to {unpacked} bytes", "a decompression bomb?")
    for member in members:
        if member.is_dir() or member.filename.endswith("\\"):
            continue
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise DataError(uri, f"member {member.filename!r} is a link or a device", "pack the files themselves")
        if member.flag_bits & 1:
            raise DataError(uri, f"member {member.filename!r} is encrypted", "pack it without a password")
        yield SourceFile(_safe(member.filename, uri), member.file_size)


def _tar_members(path: Path, uri: str) -> Iterator[SourceFile]:
    size = path.stat().st_size
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise DataError(uri, f"member {member.name!r} is a link or a device", _NO_LINKS)
            if member.size < 0 or member.offset_data + member.size > size:
                raise DataError(uri, "the archive is truncated", "copy or pack it again")
            yield SourceFile(_safe(member.name, uri), member.size, member.offset_data)


def _path(name: str) -> str:
    """A member's path with slashes: programs on Windows write backslashes, against the format's rules."""
    return str(PurePosixPath(name.replace("\\", "/")))


def _safe(name: str, uri: str) -> str:
    """A member's path, relative and inside the archive.

    Raises:
        DataError: it is absolute, begins with a drive letter, climbs, or cannot be printed.
    """
    path = PurePosixPath(_path(name))
    problem, action = "", "pack relative paths only"
    if path.is_absolute() or _DRIVE.match(name):
        problem = "expected a relative path, found an absolute one"
    elif ".." in path.parts:
        problem = "expected a path inside the archive, found one with '..'"
    elif odd := odd_characters("".join(path.parts)):
        problem, action = (
            f"the path holds characters that are not allowed: {', '.join(odd)}",
            "rename it and pack again",
        )
    if problem:
        raise DataError(uri, f"member {name!r}: {problem}", action)
    return str(path)
