"""What a stage cost: each attempt leaves its time beside the result, and the ensemble's report adds them up.

A manifest holds no times, so that its bytes depend on the inputs alone. Each attempt at each share of the work leaves a
record in `costs/` of the stage's folder when it ends, even when it fails; only one that is killed outright leaves none.
Training is the exception: its time is part of its checkpoints, and so of its manifest.
"""

from __future__ import annotations

import uuid

from landseg import storage
from landseg.contracts.references import COSTS, Cost


def record(folder: str, seconds: float, num_gpus: int = 0) -> None:
    """Leave a record of what an attempt took in the stage's folder."""
    uri = storage.join(folder, COSTS, f"{uuid.uuid4().hex[:12]}.json")
    storage.write_document(uri, Cost(seconds=round(seconds, 3), num_gpus=num_gpus))


def is_recorded(folder: str) -> bool:
    """Whether any attempt left a record in the stage's folder."""
    return bool(storage.list_objects(storage.join(folder, COSTS)))
