"""Raw datasets in a `.zip` or `.tar` file, read in place: nothing is unpacked, so nothing can land outside a folder.

One in object storage is fetched whole where the scratch folder has ample room, and otherwise read by range.

Archives are untrusted input. Members with absolute paths or `..`, links and devices are refused, as are encrypted
members and archives that would unpack to far more than their size.
"""

from __future__ import annotations

import functools
import io
import re
import stat
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from landseg import storage
from landseg.contracts.errors import DataError, StorageError
from landseg.contracts.names import odd_characters
from landseg.raw.sources.file_start import read_start
from landseg.raw.sources.ranged import RangedFile
from landseg.raw.sources.source import LAYOUT_HINT, FolderSource, PrefixSource, Source, stamp_of, version_of
from landseg.raw.sources.source_file import SourceFile, sorted_files

_ROOM_SHARE = 0.5
"""An archive in object storage that takes more of the room in the scratch folder is read by range."""
_ZIP_HEADER_BYTES = 30
_ZIP_EXTRA_BYTES = 256
"""More than most zips have before a member's content, apart from its name: then one request is enough."""
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
        path: the local file; None where the archive is read from object storage by range.
        is_zip: whether it is a zip; otherwise it is a tar.
        prefix: the folder inside that is the source, "" or ending with a slash.
        version: what tells versions of the archive apart, and so those of its members; 0 where that is not known.
        size_bytes: of the archive.

    Raises:
        DataError: it is damaged, or a member is not safe.
    """

    path: Path | None
    is_zip: bool
    prefix: str = ""
    version: int = 0
    size_bytes: int = 0

    @property
    def is_remote(self) -> bool:  # type: ignore[override]
        """See :attr:`Source.is_remote`."""
        return self.path is None

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
                _zip_members(self._zip, self.size_bytes, self.uri)
                if self.is_zip
                else _tar_members(self._open(), self.size_bytes, self.uri)
            )
        except (DataError, StorageError):
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
        with self._open() as file:
            found, action = read_start(file.read(1024))
        kind = "zip" if self.is_zip else "tar"
        if found == f"a {kind} archive":
            found, action = f"one that is truncated or damaged ({err})", "copy or pack it again"
        elif action == "unpack it" and found in ("a zip archive", "a tar archive"):
            action = f"rename it to .{found.split()[1]}"
        return DataError(self.uri, f"expected a {kind} archive, found {found}", action or "pack the folder again")

    def _open(self) -> BinaryIO:
        if self.path is None:
            return cast(BinaryIO, RangedFile(self.uri, self.size_bytes))
        return self.path.open("rb")

    @functools.cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self._open())

    @functools.cached_property
    def _foreign_names(self) -> dict[str, str]:
        """The names of a zip's members, by path, where they are written in another way: with backslashes, say."""
        names = ((_path(member.filename), member.filename) for member in self._zip.infolist())
        return {path: name for path, name in names if path != name}

    def files(self) -> Sequence[SourceFile]:
        """See :meth:`Source.files`."""
        return sorted_files(
            SourceFile(file.path.removeprefix(self.prefix), file.size_bytes, file.offset, self.version)
            for file in self._members
            if file.path.startswith(self.prefix)
        )

    def folders(self) -> set[str]:
        """See :meth:`Source.folders`; an archive does not tell an empty split from an absent one."""
        return set()

    def inside(self, folder: str) -> ArchiveSource:
        """See :meth:`Source.inside`."""
        source = ArchiveSource(
            self.uri, self.path, self.is_zip, f"{self.prefix}{folder}/", self.version, self.size_bytes
        )
        vars(source)["_members"] = self._members  # there may be millions
        if self.is_zip:
            vars(source)["_zip"] = self._zip
        return source

    def read(self, file: SourceFile) -> bytes:
        """See :meth:`Source.read`."""
        try:
            if self.is_zip:
                name = self.prefix + file.path
                with self._open_member(self._foreign_names.get(name, name)) as member:
                    content = member.read(file.size_bytes + 1)
            elif self.path is None:
                content = storage.get_bytes(self.uri, byte_range=(file.offset, file.size_bytes))
            else:
                with self.path.open("rb") as archive:
                    archive.seek(file.offset)
                    content = archive.read(file.size_bytes)
        except StorageError:
            raise
        except Exception as err:  # zipfile's decoders raise all kinds of errors on damaged members
            raise DataError(self.where(file.path), f"the archive is damaged: {err}", "pack it again") from err
        if len(content) != file.size_bytes:
            raise DataError(
                self.where(file.path), f"expected {file.size_bytes} bytes, found {len(content)}", "pack it again"
            )
        return content

    def _open_member(self, name: str) -> IO[bytes]:
        """A member of a zip; of one in object storage, read with one request, by several threads at once."""
        if self.path is not None:
            return self._zip.open(name)
        member = self._zip.getinfo(name)
        # How long the fields before the content are, stands in them: those in the list of members may be shorter.
        start, guess = member.header_offset, _ZIP_HEADER_BYTES + len(name.encode()) + _ZIP_EXTRA_BYTES
        length = min(guess + member.compress_size, self.size_bytes - start)
        data = storage.get_bytes(self.uri, byte_range=(start, length))
        if data[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("no member where the list has one")
        begin = _ZIP_HEADER_BYTES + sum(int.from_bytes(data[at : at + 2], "little") for at in (26, 28))
        packed = data[begin : begin + member.compress_size]
        if len(packed) < member.compress_size:
            packed = storage.get_bytes(self.uri, byte_range=(start + begin, member.compress_size))
        return cast(IO[bytes], zipfile.ZipExtFile(io.BytesIO(packed), "r", member))


def open_source(uri: str, scratch: Path) -> Source:
    """The source behind `--source`.

    Args:
        uri: a folder, an `s3://` prefix, or a `.zip` or `.tar` in either place.
        scratch: where an archive from object storage is downloaded to, if it takes no more than half of the room.

    Raises:
        DataError: there is none, or an archive that cannot be read safely.
        StorageError: it is out of reach.
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
    is_zip = name.lower().endswith(".zip")
    if is_s3:
        path = scratch / "source"
        info = storage.stat(name)
        if info is not None and info.size_bytes > _ROOM_SHARE * storage.scratch_room(scratch):
            return ArchiveSource(name, None, is_zip, "", version_of(info.etag), info.size_bytes)
        storage.get_file(name, path)
        stamp = info.etag if info else None
    else:
        path = Path(uri).resolve()
        name = str(path)
        stamp = stamp_of(path.stat(), time.time_ns()) if path.is_file() else None
    if not path.is_file():
        raise DataError(uri, "no such archive")
    return ArchiveSource(name, path, is_zip, "", version_of(stamp), path.stat().st_size)


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


def _zip_members(archive: zipfile.ZipFile, packed: int, uri: str) -> Iterator[SourceFile]:
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
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


def _tar_members(file: BinaryIO, size: int, uri: str) -> Iterator[SourceFile]:
    with file, tarfile.open(fileobj=file, mode="r:") as archive:
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
