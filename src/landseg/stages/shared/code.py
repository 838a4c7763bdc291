"""Which of landseg's own code decides a stage's result: other code, as in an image built anew, gives another result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import landseg

ROOMS: dict[str, tuple[str, ...]] = {
    "train": ("configs", "dataset", "models", "prediction", "raw/tiff", "scoring", "training"),
    "export-probs": ("dataset", "models", "prediction", "probabilities", "raw/tiff"),
    "average-probs": ("dataset", "ensemble", "probabilities", "raw/tiff", "report", "scoring"),
}
"""The folders of the package whose code computes what a stage writes.

The command line, contracts, storage and, for a training of many hours, its report can change without changing a result.
"""


def code_digest(stage: str, package: Path | None = None) -> str:
    """SHA-256 of the code that decides a stage's result; "" for a stage whose results have no folder of their own.

    Args:
        stage: the verb.
        package: the folder of landseg's package; that of the running landseg by default.
    """
    rooms = ROOMS.get(stage, ())
    return rooms_digest(rooms, package) if rooms else ""


def rooms_digest(rooms: Sequence[str], package: Path | None = None) -> str:
    """SHA-256 of the code in some folders of landseg's package, the running one by default."""
    package = package or Path(landseg.__file__).parent
    found = hashlib.sha256()
    for path in sorted(path for room in rooms for path in (package / room).rglob("*") if _is_code(path)):
        content = path.read_bytes()
        found.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def _is_code(path: Path) -> bool:
    """Other than a folder or what Python keeps of its own, which another process may be writing or renaming."""
    return path.parent.name != "__pycache__" and path.is_file()
