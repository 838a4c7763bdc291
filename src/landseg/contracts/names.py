"""The names of things that become folders, file names and parameters: one pattern each, checked wherever one enters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""Regular expression of a run's name: letters, digits, '.', '_' and '-', at most 63."""

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""A model's name in a run, e.g. `swin`; it names folders and metrics."""

DatasetId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""The start of a digest of a dataset's content, which names its folder."""

DatasetName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]
"""What dataset.yaml calls the dataset."""

TileId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\\\x00-\x1f]+$")]
"""The stem that a tile's image, label and probabilities share; it names files in archives."""
