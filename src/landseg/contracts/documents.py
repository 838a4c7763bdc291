"""JSON documents: what manifests and references have in common.

Every document names its `kind` and `version`. Documents are untrusted input: parsing is strict, unknown fields and
unknown versions are refused, and every failure is a :class:`~landseg.contracts.errors.ContractError`.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from landseg.contracts.errors import ContractError

M = TypeVar("M", bound=BaseModel)

MAX_DOCUMENT_BYTES = 64 << 20
"""No manifest comes near this; a larger document is neither written nor parsed."""


def _relative_path(value: str) -> str:
    parts = PurePosixPath(value).parts
    inner = parts[2:] if parts[:2] == ("..", "shards") else parts
    if (
        not inner
        or value.startswith("/")
        or ".." in inner
        or "\\" in value
        or "://" in value
        or not value.isprintable()
    ):
        raise ValueError("must be a plain relative path of printable characters")
    return value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_relative_path)]
"""A path relative to the document that holds it; only `../shards/…` may leave its folder."""
Count = Annotated[int, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]


class Model(BaseModel):
    """A strict, immutable part of a document."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Blob(Model):
    """An object that belongs to a manifest: where it is, its size and its checksum."""

    path: RelativePath
    size_bytes: Count
    sha256: Sha256


class BlobList(Blob):
    """An object that lists further objects, too many for a document: JSON Lines, one `ROW` each."""

    ROW: ClassVar[type[Model]]

    def rows(self, data: bytes, where: object) -> Iterator[Model]:
        """The rows in its bytes.

        Args:
            data: the whole object.
            where: the object, for the error line.

        Raises:
            ContractError: a row breaks the contract.
        """
        return (validate(self.ROW, line, where) for line in data.splitlines())


def blobs(value: object) -> Iterator[Blob]:
    """All objects that a document itself lists; :func:`landseg.storage.listed` follows its lists of objects."""
    if isinstance(value, Blob):
        yield value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from blobs(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from blobs(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from blobs(item)


class Document(Model):
    """A top-level document. Subclasses set `kind` (a Literal), the current `VERSION`, and earlier ones still read."""

    VERSION: ClassVar[int] = 1
    EARLIER: ClassVar[tuple[int, ...]] = ()
    kind: str
    version: int

    @classmethod
    def parse(cls, data: bytes, where: object) -> Self:
        """Parse and validate.

        Args:
            data: JSON, UTF-8.
            where: the file or URI the bytes came from, for the error line.

        Raises:
            ContractError: not JSON, another kind, an unknown version, or a field that breaks the contract.
        """
        obj = parse_json(data, where)
        expected = cls.model_fields["kind"].default
        if not isinstance(obj, dict) or obj.get("kind") != expected:
            found = obj.get("kind") if isinstance(obj, dict) else type(obj).__name__
            raise ContractError(where, f"expected a document of kind {expected!r}, found {_REPR.repr(found)[:60]}")
        if obj.get("version") not in (cls.VERSION, *cls.EARLIER):
            raise ContractError(
                where,
                f"version {obj.get('version')!r} of {expected!r} is not known, expected version {cls.VERSION}",
                "use the landseg release that wrote it",
            )
        del obj  # so that a long list of tiles is not in memory twice
        return validate(cls, data, where)

    def to_bytes(self, where: object = None) -> bytes:
        """Deterministic JSON, UTF-8, one trailing newline.

        Args:
            where: the URI that the bytes are for, for the error line.

        Raises:
            ContractError: they are more than readers accept.
        """
        data = (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        if len(data) > MAX_DOCUMENT_BYTES:
            problem = f"expected at most {MAX_DOCUMENT_BYTES} bytes of JSON, as much as is read, found {len(data)}"
            raise ContractError(where or self.kind, problem, "nothing was written")
        return data


def parse_json(data: bytes, where: object) -> Any:
    """Parse JSON of bounded size; everything else is refused."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ContractError(where, f"expected at most {MAX_DOCUMENT_BYTES} bytes of JSON, found {len(data)}")
    try:
        return json.loads(data, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as err:
        raise ContractError(where, f"expected JSON, found something else: {err}") from err


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def validate(model: type[M], data: bytes, where: object) -> M:
    """Validate JSON bytes against a pydantic model; the first problem makes the error line."""
    try:
        return model.model_validate_json(data)
    except ValidationError as err:
        raise ContractError(where, describe(err)) from err


_REPR = reprlib.Repr()
_REPR.maxlevel = _REPR.maxlist = _REPR.maxdict = 3  # a few lines of YAML aliases make a value that fills memory as text
_REPR.maxstring = _REPR.maxother = 60


def short_repr(value: object) -> str:
    """A value in at most 60 characters, whatever its size."""
    try:
        found = _REPR.repr(value)
    except ValueError:  # Python refuses to write an integer of more than 4300 digits
        found = f"a very large {type(value).__name__}"
    return _shortened(found, 60)


def describe(err: ValidationError) -> str:
    """One line for a validation error: which field, what is wrong, how many more."""
    problems = err.errors(include_url=False, include_context=False)
    first = problems[0]
    field = ".".join(_shortened(str(part), 60) for part in first["loc"])
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    message = _shortened(first["msg"].removeprefix("Value error, "), 400)
    if not field and first["type"] == "value_error":  # of fields that do not fit each other: it says what was found
        return f"{message}{more}"
    found = short_repr(first.get("input"))
    return f"field {field or 'document'}: {message[:1].lower()}{message[1:]}, found {found}{more}"


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest(values: dict[str, Any]) -> str:
    """SHA-256 of canonical JSON: the identity of a set of parameters and inputs."""
    return sha256_hex(json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
