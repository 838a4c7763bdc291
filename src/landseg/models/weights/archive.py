"""The zip archive that `torch.save` writes: looked at before anything in it is read. Needs no torch."""

from __future__ import annotations

import zipfile
from typing import IO

from landseg.models.weights.pickle_values import RefusedFileError

START = b"PK\3\4"
MAX_PICKLE_BYTES = 32 << 20
MAX_DIRECTORY_BYTES = 16 << 20
"""Of an archive's list of members; a member takes about a hundred bytes there."""


def open_archive(file: IO[bytes], size: int) -> tuple[zipfile.ZipFile, str]:
    """Open an archive whose members are as torch writes them.

    Args:
        file: seekable.
        size: of the file.

    Returns:
        The archive, and the folder in it that holds everything, with a slash at its end.

    Raises:
        RefusedFileError: it is another archive, or its members are more or larger than the file can hold.
    """
    if _directory_bytes(file, size) > MAX_DIRECTORY_BYTES:
        raise RefusedFileError("an archive of too many files")
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    names = {member.filename for member in members}
    if any(name.endswith("/constants.pkl") for name in names):
        raise RefusedFileError("a TorchScript archive: save the weights with torch.save(model.state_dict(), ...)")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise RefusedFileError("a compressed archive, and torch compresses nothing")
    if sum(member.file_size for member in members) > size:
        raise RefusedFileError("an archive whose parts are larger than the whole")
    found = next((name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if found is None:
        raise RefusedFileError("a zip archive without a pickle of torch's")
    if archive.getinfo(found).file_size > MAX_PICKLE_BYTES:
        raise RefusedFileError(f"a pickle of more than {MAX_PICKLE_BYTES >> 20} MiB")
    return archive, found.removesuffix("data.pkl")


def _directory_bytes(file: IO[bytes], size: int) -> int:
    """The size of an archive's list of members, as its end states it."""
    length = min(size, (1 << 16) + 22 + 76)
    file.seek(size - length)
    tail = file.read(length)
    file.seek(0)
    end, end64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    if end < 0:
        raise RefusedFileError("it breaks off")
    listed = int.from_bytes(tail[end + 12 : end + 16], "little")
    return max(
        listed if listed != 0xFFFFFFFF else 0,
        int.from_bytes(tail[end64 + 40 : end64 + 48], "little") if end64 >= 0 else 0,
    )
