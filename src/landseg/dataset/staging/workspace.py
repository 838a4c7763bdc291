"""Where a staging works: what every part of it writes to and adds to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from landseg.contracts.tile import GeoKeys


@dataclass
class Workspace:
    """The places that a staging writes to, and the coordinate reference systems it has met.

    Attributes:
        storage_uri: the folder or `s3://` prefix that datasets are published under.
        scratch: a local folder, for what is not uploaded yet and for what was downloaded.
        crs: the coordinate reference systems of the new dataset, in order of appearance.
    """

    storage_uri: str
    scratch: Path
    crs: list[GeoKeys] = field(default_factory=list)

    def crs_index(self, keys: GeoKeys) -> int:
        """The position of a coordinate reference system, which is appended where it is new."""
        if keys not in self.crs:
            self.crs.append(keys)
        return self.crs.index(keys)
