"""Small documents that accompany manifests: the pointer that KFP carries, a stage's arguments and its costs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from landseg.contracts.documents import Count, Document, Sha256


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


COSTS = "costs"
"""In a stage's folder: the folder of its :class:`Cost` records."""


class Cost(Document):
    """What one attempt at one share of a stage's work took.

    Attributes:
        seconds: wall-clock time.
        num_gpus: GPUs that it held for that time.
    """

    kind: Literal["landseg.cost"] = "landseg.cost"
    version: int = 1
    seconds: Annotated[float, Field(ge=0)]
    num_gpus: Count
