"""Two small documents that accompany manifests: the pointer to one that KFP carries, and a stage's arguments."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from landseg.contracts.documents import Document, Sha256


class Reference(Document):
    """What KFP carries: a pointer to a manifest in object storage, with a few facts to read in the UI."""

    kind: Literal["landseg.reference"] = "landseg.reference"
    version: int = 1
    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    sha256: Sha256
    manifest_kind: str
    facts: dict[str, str | int | float | bool] = Field(default_factory=dict)


ARGUMENTS = "arguments.json"
"""In a stage's folder, written before the work begins: its :class:`Arguments`."""


class Arguments(Document):
    """The arguments a stage was run with, so that another run needs to state only what differs.

    Attributes:
        values: flags by name, as in a pipeline's parameters; for average-probs also `models`, which `weights` follow.
    """

    kind: Literal["landseg.arguments"] = "landseg.arguments"
    version: int = 1
    values: dict[str, str | int | float]
