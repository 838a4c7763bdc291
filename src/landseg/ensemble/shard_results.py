"""What averaging a shard leaves in object storage: a few arrays, exact to the bit.

A record of :mod:`landseg.storage.array_records` with the arrays of :data:`_ARRAYS` and with `about`, which is JSON,
:class:`_About`. Of a shard without labels, E is 0 and no models are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.documents import Blob, Count, Model, validate
from landseg.contracts.errors import ContractError
from landseg.contracts.labels import LayerName
from landseg.contracts.names import TileId
from landseg.contracts.probabilities import Tta
from landseg.storage.array_records import unpack_arrays

LABELS = "labels"
LAYERS: tuple[LayerName, ...] = get_args(LayerName)

NestedCounts = tuple[tuple[Count, ...], ...]

_ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "is_cut": ("|b1", ("T",)),
    "spans": ("<i8", ("K", "T", 2)),
    "pixels": ("<u4", ("T", "C")),
    "uncertainty": ("<f8", ("T", 3)),
    "areas": ("<u4", ("T", "E", 3, "C")),
    "confusions": ("<i8", ("N + 1", "C", "C")),
    "reliability": ("<i8", ("N + 1", 3, "B")),
    "boundaries": ("<i8", ("N + 1", 3, "C")),
}
"""The dtype and the shape of each array, as :class:`ShardResult` describes it."""
_DTYPES = {"about": "|u1"} | {name: dtype for name, (dtype, _) in _ARRAYS.items()}


class _About(Model):
    """What a record holds besides numbers; see :class:`ShardResult`."""

    archives: dict[str, Blob]
    ids: tuple[TileId, ...]
    ttas: tuple[Tta, ...]


@dataclass(frozen=True, eq=False)
class ShardResult:
    """What averaging a shard left.

    Attributes:
        archives: K: the label maps (:data:`LABELS`) and the layers.
        ids: T tiles, in the shard's order.
        is_cut: (T,) bool: whether a tile was cut from a scene, which is scored in its place.
        spans: (K, T, 2) int64: offset and length of the tile's block in each of the archives.
        pixels: (T, C) uint32: by class, pixels of the ensemble's label map that have data.
        uncertainty: (T, 3) float64, means over the tile's pixels that have data:
            :func:`~landseg.ensemble.averaging.disagreement` (0 for a single model),
            :func:`~landseg.ensemble.averaging.entropy`, and the share where the models' own labels differ.
        ttas: the smaller `--tta` that are scored as well (:mod:`landseg.ensemble.fewer_views`).
        areas: (T, E, 3, C) uint32: for each of :func:`landseg.ensemble.split_results.variants`, by class: pixels that
            are right, pixels of the truth, pixels of the prediction, among those that are scored (none, in a tile that
            weights were fitted to).
        confusions: (N + 1, C, C) int64: the matrices of each model, then of the ensemble, summed over the tiles that
            were not cut from scenes.
        reliability: likewise, over all tiles: (3, B) counts of :mod:`landseg.scoring.calibration`.
        boundaries: likewise, over all tiles: (3, C) counts of :mod:`landseg.scoring.boundary`.
    """

    archives: dict[str, Blob]
    ids: tuple[str, ...]
    is_cut: NDArray[np.bool_]
    spans: NDArray[np.int64]
    pixels: NDArray[np.uint32]
    uncertainty: NDArray[np.float64]
    ttas: tuple[Tta, ...]
    areas: NDArray[np.uint32]
    confusions: NDArray[np.int64]
    reliability: NDArray[np.int64]
    boundaries: NDArray[np.int64]

    @property
    def is_labelled(self) -> bool:
        """Whether its tiles have labels: all of a split's do, or none."""
        return len(self.confusions) > 0

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of its record."""
        about = _About(archives=self.archives, ids=self.ids, ttas=self.ttas).model_dump_json().encode()
        found: dict[str, NDArray[Any]] = {"about": np.frombuffer(about, np.uint8)}
        found |= {name: getattr(self, name) for name in _ARRAYS}
        return {name: np.ascontiguousarray(found[name], dtype) for name, dtype in _DTYPES.items()}

    @classmethod
    def parse(cls, data: bytes, where: object) -> ShardResult:
        """The result in the bytes of a record.

        Raises:
            ContractError: they are something else.
        """
        arrays = unpack_arrays(data, _DTYPES, where)
        about = validate(_About, arrays.pop("about").tobytes(), where)
        for name, (_, shape) in _ARRAYS.items():
            if (num := arrays[name].ndim) != len(shape):
                raise ContractError(where, f"expected {name} of {len(shape)} dimensions, found {num}")
        sides: dict[str | int, int] = {
            "K": len(about.archives),
            "T": len(about.ids),
            "C": arrays["pixels"].shape[1],
            "E": arrays["areas"].shape[1],
            "N + 1": len(arrays["confusions"]),
            "B": arrays["reliability"].shape[2],
        }
        for name, (_, shape) in _ARRAYS.items():
            expected = tuple(sides.get(side, side) for side in shape)
            if arrays[name].shape != expected:
                raise ContractError(where, f"expected {name} of shape {expected}, found {arrays[name].shape}")
        return cls(archives=about.archives, ids=about.ids, ttas=about.ttas, **arrays)


def nested(array: NDArray[np.int64]) -> Any:
    """An array as nested tuples, as documents hold it."""
    return tuple(map(nested, array)) if array.ndim > 1 else tuple(array.tolist())
