"""The maps of tiles: GeoTIFFs of those whose place is known, PNGs of the others and of those cut from scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.labels import LayerName
from landseg.contracts.tile import GeoKeys, Tile
from landseg.ensemble.averaging import Average, Labels, confidence, disagreement, entropy
from landseg.ensemble.maps.files import encode_grey, encode_png
from landseg.ensemble.maps.geotiff import (
    NO_VALUE,
    VALUE_STEPS,
    MapStyle,
    encode_map,
    label_style,
    nodata_label,
    value_style,
)
from landseg.probabilities.codec import Probs, Stored


def map_name(tile: Tile) -> str:
    """The file name of a tile's maps."""
    return f"{tile.id}.tif" if _is_geotiff(tile) else f"{tile.id}.png"


def _is_geotiff(tile: Tile) -> bool:
    """Whether a tile is an input of its own whose place is known; of a scene, the scene's map has it."""
    return tile.location is not None and tile.scene is None


def layer_values(layer: LayerName, average: Average, prepared: Sequence[Stored]) -> Probs:
    """What a layer shows.

    Args:
        layer: its name.
        average: the ensemble's arithmetic.
        prepared: (C, H, W) of each model, or a blend of such tiles.

    Returns:
        (H, W) float32 in 0-1.
    """
    if layer == "disagreement":
        return disagreement(prepared)
    return (entropy if layer == "entropy" else confidence)(average.mean(prepared))


def stored_labels(labels: Labels, schema: ClassSchema, valid: NDArray[np.bool_] | None) -> Labels:
    """Class ids as label maps hold them, as in the dataset's own labels; `valid` is where there is data."""
    stored = labels + np.uint8(schema.label_offset)
    return stored if valid is None else np.where(valid, stored, np.uint8(nodata_label(schema)))


def stored_values(values: Probs, valid: NDArray[np.bool_] | None) -> Labels:
    """Values from 0 to 1 as GeoTIFFs hold them; `valid` is where there is data."""
    steps: Labels = np.rint(values * np.float32(VALUE_STEPS)).astype(np.uint8)
    return steps if valid is None else np.where(valid, steps, np.uint8(NO_VALUE))


@dataclass(frozen=True)
class TileMaps:
    """Writes the maps of a dataset's tiles.

    Attributes:
        schema: what labels mean.
        crs: the manifest's.
        facts: where the maps come from.
    """

    schema: ClassSchema
    crs: tuple[GeoKeys, ...]
    facts: dict[str, str]

    def label_style(self, name: str) -> MapStyle:
        """The style of the label map of a tile or scene."""
        return label_style(self.schema, self.facts | {"LANDSEG_IMAGE": name})

    def value_style(self, name: str, layer: LayerName) -> MapStyle:
        """The style of a layer of a tile or scene."""
        return value_style(self.facts | {"LANDSEG_IMAGE": name, "LANDSEG_LAYER": layer})

    def labels(self, tile: Tile, labels: Labels, valid: NDArray[np.bool_] | None) -> bytes:
        """A label map: class id plus `label_offset`, as in the dataset's own labels; `valid` is where there is data."""
        stored = stored_labels(labels, self.schema, valid)
        if tile.location is None or not _is_geotiff(tile):
            return encode_png(stored, self.schema, nodata=None if valid is None else nodata_label(self.schema))
        return encode_map(stored, self.label_style(tile.id), tile.location, self.crs)

    def layer(self, tile: Tile, layer: LayerName, values: Probs, valid: NDArray[np.bool_] | None) -> bytes:
        """A map of values from 0 to 1; PNGs show 0 where there is no data."""
        if tile.location is None or not _is_geotiff(tile):
            return encode_grey(values if valid is None else values * valid)
        return encode_map(stored_values(values, valid), self.value_style(tile.id, layer), tile.location, self.crs)
