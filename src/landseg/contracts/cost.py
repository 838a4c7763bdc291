"""What a stage cost: a record of each attempt, in the stage's folder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from landseg.contracts.documents import Count, Document

COSTS = "costs"
"""In a stage's folder: the folder of its records."""


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
