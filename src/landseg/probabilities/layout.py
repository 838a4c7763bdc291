"""Where a model's probabilities lie: which tile in which shard of which Zarr array, and the arrays' metadata.

    <folder>/manifest.json                     written last: present means complete
    <folder>/probs.zarr/<split>/<H>x<W>/       a Zarr v3 group of the tiles of about one size
        probs                                  (tile, class, y, x), one chunk per tile, shards of several tiles
        views                                  (view, tile, class, y, x), where views are kept: likewise
        tile, class, view                      coordinates: tile ids, names of classes and views
        height, width                          per tile: its own size, at most the array's
    <folder>/records/                          one record per finished shard, by which a killed writer resumes

One array for tiles of very different sizes would waste space and memory; one array for each size would be many small
files. So tiles share an array if their sides are equal when rounded up to multiples of 128 pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landseg.contracts.dataset import Split, Tile
from landseg.contracts.probabilities import ProbsSpec, StoredTile
from landseg.probabilities.codec import BLOSC_BLOCK_BYTES, BLOSC_CLEVEL, BLOSC_CNAME, DTYPES

ROOT = "probs.zarr"
"""The Zarr hierarchy, kept apart from what is not Zarr's."""

_SIDE_PX = 128
_SHARD_BYTES = 256 << 20
"""The most float32 in a shard: small enough to hold in memory, large enough for object storage."""
_SHARD_TILES = 256
"""The most tiles in a shard: what is known about them is held in memory, too."""
_MIN_SHARDS = 16
"""A small split is cut into at least this many shards (one per tile if it has fewer), so that it can be shared."""


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write.

    Attributes:
        split: the split of its tiles.
        array: the Zarr group's name, `<H>x<W>`.
        index: number of the shard in its array.
        canvas, capacity, tiles: as in :class:`~landseg.contracts.probabilities.ProbsShard`.
    """

    split: Split
    array: str
    index: int
    canvas: tuple[int, int]
    capacity: int
    tiles: tuple[StoredTile, ...]

    @property
    def path(self) -> str:
        """The object, relative to the folder."""
        return f"{ROOT}/{self.split}/{self.array}/probs/c/{self.index}/0/0/0"

    def view_path(self, view: int) -> str:
        """The object of the same tiles in one view, relative to the folder."""
        return f"{ROOT}/{self.split}/{self.array}/views/c/{view}/{self.index}/0/0/0"

    @property
    def record(self) -> str:
        """The record that marks the shard as finished, relative to the folder."""
        return f"records/{self.split}-{self.array}-{self.index:06d}.json"


def plan_shards(split: Split, tiles: Iterable[StoredTile], num_classes: int) -> list[ShardPlan]:
    """Lay out a split.

    The plan depends only on the tiles and the number of classes, not on the dtype, so all models of a dataset hold the
    same tiles, shard by shard.

    Args:
        split: its name.
        tiles: sorted by id.
        num_classes: C.
    """
    groups: dict[tuple[int, int], list[StoredTile]] = {}
    for tile in tiles:
        groups.setdefault((-(-tile.height // _SIDE_PX), -(-tile.width // _SIDE_PX)), []).append(tile)
    plan = []
    for _, group in sorted(groups.items()):
        canvas = max(tile.height for tile in group), max(tile.width for tile in group)
        fitting = max(1, _SHARD_BYTES // (4 * num_classes * canvas[0] * canvas[1]))
        capacity = min(fitting, _SHARD_TILES, -(-len(group) // _MIN_SHARDS))
        for index, start in enumerate(range(0, len(group), capacity)):
            members = tuple(group[start : start + capacity])
            plan.append(ShardPlan(split, f"{canvas[0]}x{canvas[1]}", index, canvas, capacity, members))
    return plan


def plan_splits(tiles: Mapping[Split, Iterable[Tile]], num_classes: int) -> list[ShardPlan]:
    """Lay out the tiles of several splits: a model's shards, in the order in which they are shared out."""
    plan: list[ShardPlan] = []
    for split, members in tiles.items():
        plan += plan_shards(split, (StoredTile(tile.id, tile.height, tile.width) for tile in members), num_classes)
    return plan


def zarr_metadata(spec: ProbsSpec, plan: Sequence[ShardPlan]) -> dict[str, bytes]:
    """All of the Zarr groups but the shards, made by Zarr itself: bytes by object name, relative to the folder."""
    import zarr
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    objects: dict[str, Buffer] = {}
    store = MemoryStore(objects)
    groups: dict[str, list[ShardPlan]] = {}
    for shard in plan:
        groups.setdefault(f"{shard.split}/{shard.array}", []).append(shard)
    root = zarr.create_group(store, zarr_format=3)
    for name, shards in groups.items():
        _create_group(root, name, spec, shards)
        with warnings.catch_warnings():
            # Spares readers from listing each array. Zarr's specification does not have it yet; readers may ignore it.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(store, path=name)
    return {f"{ROOT}/{name}": buffer.to_bytes() for name, buffer in objects.items()}


def _create_group(root: Any, name: str, spec: ProbsSpec, shards: Sequence[ShardPlan]) -> None:
    import numpy as np
    import zarr.codecs

    dtype, first = DTYPES[spec.dtype], shards[0]
    tiles = [tile for shard in shards for tile in shard.tiles]
    num_classes = len(spec.classes)
    chunk = (num_classes, *first.canvas)
    group = root.create_group(name, attributes={**spec.model_dump(mode="json"), "split": first.split})

    def create(key: str, axes: Mapping[str, int]) -> None:
        group.create_array(
            key,
            shape=(*axes.values(), len(tiles), *chunk),
            chunks=(*(1 for _ in axes), 1, *chunk),
            shards=(*(1 for _ in axes), first.capacity, *chunk),
            dtype=dtype.stored,
            fill_value=0,
            compressors=zarr.codecs.BloscCodec(
                cname=BLOSC_CNAME,
                clevel=BLOSC_CLEVEL,
                shuffle="shuffle",
                typesize=dtype.stored.itemsize,
                blocksize=BLOSC_BLOCK_BYTES,
            ),
            dimension_names=(*axes, "tile", "class", "y", "x"),
            attributes={"coordinates": "height width", **({"scale_factor": dtype.unit} if dtype.levels else {})},
        )

    create("probs", {})
    coordinates: dict[str, tuple[str, Any]] = {
        "tile": ("tile", np.array([tile.id for tile in tiles], object)),
        "class": ("class", np.array(spec.classes, object)),
        "height": ("tile", np.array([tile.height for tile in tiles], np.int32)),
        "width": ("tile", np.array([tile.width for tile in tiles], np.int32)),
    }
    if spec.views:
        create("views", {"view": len(spec.views)})
        coordinates["view"] = ("view", np.array(spec.views, object))
    for key, (dimension, values) in coordinates.items():
        array = group.create_array(
            key,
            shape=values.shape,
            chunks=values.shape,
            dtype="string" if values.dtype == object else values.dtype,
            dimension_names=(dimension,),
        )
        array[:] = values
