"""The names of things that become folders, file names and parameters: one pattern each, checked wherever one enters.

Documents check by type; flags, which have no document, by :func:`check_run_id` and :func:`check_model_name`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

from landseg.contracts.errors import ConfigError

RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""Regular expression of a run's name: letters, digits, '.', '_' and '-', at most 63."""

MODEL_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
"""Regular expression of a model's name: lower-case letters, digits, '_' and '-', at most 63."""

DATASET_ID = r"[0-9a-f]{16}"
"""Regular expression of a dataset's id."""

RESERVED_MODEL_NAMES = ("ensemble",)
"""What landseg itself calls the average of the models; its scores stand beside theirs under this name."""

MAX_TILE_ID_BYTES = 200
"""Of a tile id in UTF-8. File systems take names of 255 bytes, and landseg adds to ids (`scene-train-<id>.json`)."""

ModelName = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]
"""A model's name in a run, e.g. `swin`; it names folders and metrics."""

DatasetId = Annotated[str, Field(pattern=f"^{DATASET_ID}$")]
"""The start of a digest of a dataset's content, which names its folder."""

DatasetName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]
"""What dataset.yaml calls the dataset."""


def _short_enough(tile_id: str) -> str:
    if (size := len(tile_id.encode(errors="surrogatepass"))) > MAX_TILE_ID_BYTES:
        raise ValueError(f"must be at most {MAX_TILE_ID_BYTES} bytes long, is {size}")
    return tile_id


_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def odd_characters(name: str) -> list[str]:
    """The characters of a name that no file's or class's name may hold, each in words.

    These are control and formatting characters, spaces other than the common one, and the backslash. What joins or
    separates two letters, as Persian and Hindi are written, is a part of words.
    """
    if name.isprintable() and "\\" not in name:  # nearly always, and there may be millions
        return []
    return list(dict.fromkeys(_in_words(char) for index, char in enumerate(name) if _is_odd(name, index)))


def _is_odd(name: str, index: int) -> bool:
    char = name[index]
    if char in _JOINERS:
        around = (name[index - 1] if index else " ", name[index + 1] if index + 1 < len(name) else " ")
        return not all(unicodedata.category(neighbour)[0] in "LM" for neighbour in around)
    return char == "\\" or not char.isprintable()


def _in_words(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"the byte 0x{ord(char) - 0xDC00:02x}, which is not UTF-8"
    code = f"U+{ord(char):04X}"
    name = {"\n": "line feed", "\r": "carriage return", "\t": "tab", "\\": "backslash"}.get(char)
    name = name or unicodedata.name(char, "").lower()
    return f"{name} ({code})" if name else code


def _printable(name: str) -> str:
    if odd := odd_characters(name.replace("\\", "")):
        raise ValueError(f"must consist of printable characters, without {', '.join(odd)}")
    return name


ClassName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
"""A class's name, in any language; logs, reports and terminals show it."""

TileId = Annotated[str, Field(min_length=1, pattern=r"^[^/\\\x00-\x1f]+$"), AfterValidator(_short_enough)]
"""The stem that a tile's image, label and probabilities share; it names files in archives."""


def check_run_id(flag: str, run_id: str) -> None:
    """Refuse what does not name a run.

    Args:
        flag: where it was given, for the error line.
        run_id: the name.

    Raises:
        ConfigError: it is empty, too long, or holds other characters.
    """
    if not re.fullmatch(RUN_ID, run_id):
        raise ConfigError(flag, f"expected letters, digits, '.', '_' and '-' (at most 63), found {run_id!r}")


def check_model_name(where: str, name: str, hint: str = "") -> None:
    """Refuse what does not name a model, and the names that landseg keeps for itself.

    Args:
        where: the flag, or the document that holds the name, for the error line.
        name: the name.
        hint: what to do about it.

    Raises:
        ConfigError: it is empty, too long, reserved, or holds other characters.
    """
    if not re.fullmatch(MODEL_NAME, name):
        problem = f"expected lower-case letters, digits, '_' and '-' (at most 63), found {name!r}"
        raise ConfigError(where, problem, hint)
    if name in RESERVED_MODEL_NAMES:
        raise ConfigError(where, f"expected a model's name, found {name!r}, which is the average of the models", hint)
