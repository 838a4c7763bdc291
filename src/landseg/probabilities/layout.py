"""Where a model's probabilities lie: which tile in which shard of which Zarr array, and the arrays' metadata.

    <folder>/manifest.json                     written last: present means complete
    <folder>/index/<split>-<part>.jsonl        which tile in which shard, a line per shard; the manifest lists the parts
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

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import Split
from landseg.contracts.probabilities import ProbsSpec, StoredTile
from landseg.contracts.tile import Tile
from landseg.dataset.index import TileIndex
from landseg.dataset.table import TileTable
from landseg.probabilities.codec import BLOSC_BLOCK_BYTES, BLOSC_CLEVEL, BLOSC_CNAME, DTYPES

ROOT = "probs.zarr"
"""The Zarr hierarchy, kept apart from what is not Zarr's."""

_SIDE_PX = 128
_SHARD_BYTES = 256 << 20
"""The most float32 in a shard: small enough to hold in memory, large enough for object storage."""
_SHARD_TILES = 256
"""The most tiles in a shard: what is known about them is held in memory, too."""
_IDS_CHUNK = 16_384
"""Ids that are encoded at once, as Python objects."""
_MIN_SHARDS = 16
"""A small split is cut into at least this many shards (one per tile if it has fewer), so that it can be shared."""
_TEXT: np.dtype[Any] = np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else np.dtype(object)
"""Texts in arrays; NumPy 1 has only objects."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard to write.

    Attributes:
        split: the split of its tiles.
        array: the Zarr group's name, `<H>x<W>`.
        index: number of the shard in its array.
        canvas, capacity: as in :class:`~landseg.contracts.probabilities.ProbsShard`.
        positions: of the tiles in the split.
    """

    split: Split
    array: str
    index: int
    canvas: tuple[int, int]
    capacity: int
    positions: NDArray[np.int32] = field(compare=False)
    _table: TileTable = field(compare=False, repr=False)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return len(self.positions)

    @property
    def tiles(self) -> tuple[StoredTile, ...]:
        """As in :class:`~landseg.contracts.probabilities.ProbsShard`; made when they are asked for."""
        return tuple(self._table[position] for position in self.positions.tolist())

    def begins_dataset_shard(self, before: ShardPlan) -> bool:
        """Whether its first tile lies in another shard of the dataset than the first of the shard before it."""
        own, other = self._table.shard(int(self.positions[0])), before._table.shard(int(before.positions[0]))
        return (self.split, own) != (before.split, other)

    @property
    def sizes(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Heights and widths of the tiles."""
        heights, widths = self._table.sizes
        return heights[self.positions].astype(np.int32), widths[self.positions].astype(np.int32)

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


def plan_shards(split: Split, tiles: TileTable, num_classes: int) -> list[ShardPlan]:
    """Lay out a split.

    The plan depends only on the tiles and the number of classes, not on the dtype, so all models of a dataset hold the
    same tiles, shard by shard.

    Args:
        split: its name.
        tiles: sorted by id.
        num_classes: C.
    """
    plan = []
    for group in _arrays(tiles):
        heights, widths = tiles.sizes
        canvas = int(heights[group].max()), int(widths[group].max())
        fitting = max(1, _SHARD_BYTES // (4 * num_classes * canvas[0] * canvas[1]))
        capacity = min(fitting, _SHARD_TILES, -(-len(group) // _MIN_SHARDS))
        name = f"{canvas[0]}x{canvas[1]}"
        plan += [
            ShardPlan(split, name, index, canvas, capacity, group[start : start + capacity], tiles)
            for index, start in enumerate(range(0, len(group), capacity))
        ]
    return plan


def _arrays(tiles: TileTable) -> list[NDArray[np.int32]]:
    """The positions of the tiles of each array, by the arrays' sizes; in an array, tiles remain sorted by id."""
    rounded = [-(-sides.astype(np.int64) // _SIDE_PX) for sides in tiles.sizes]
    keys = rounded[0] << 32 | rounded[1]
    order = np.argsort(keys, kind="stable").astype(np.int32)
    starts = np.flatnonzero(np.diff(keys[order])) + 1
    return [group for group in np.split(order, starts) if len(group)]


def most_shard_bytes(spec: ProbsSpec, largest_px: int) -> int:
    """What a shard takes at most, with its views: as much as its values do, which compression does not make larger.

    Args:
        spec: what the probabilities depend on.
        largest_px: pixels of the largest canvas.
    """
    values = max(_SHARD_BYTES // 4, len(spec.classes) * largest_px)
    return values * DTYPES[spec.dtype].stored.itemsize * (1 + len(spec.views))


def tiles_in_order(plan: Iterable[ShardPlan]) -> Iterator[StoredTile]:
    """The tiles of shards, in stored order."""
    for shard in plan:
        yield from shard.tiles


def plan_splits(tiles: Mapping[Split, TileIndex | Iterable[Tile]], num_classes: int) -> list[ShardPlan]:
    """Lay out the tiles of several splits: a model's shards, in the order in which they are shared out."""
    plan: list[ShardPlan] = []
    for split, members in tiles.items():
        plan += plan_shards(split, members.table if isinstance(members, TileIndex) else table_of(members), num_classes)
    return plan


def share_cuts(plan: Sequence[ShardPlan], num_shares: int) -> list[int]:
    """Where shares begin and end: share i has the shards from cut i up to cut i + 1, all of about the same pixels.

    Neighbours lie in the same shards of the dataset. A cut moves by up to an eighth of a share to where a shard of the
    dataset begins, so that only one worker reads it; where such shards are large, even shares count for more.
    """
    pixels = np.cumsum([0, *(shard.num_tiles * shard.canvas[0] * shard.canvas[1] for shard in plan)])
    starts = np.array([0, *(i for i in range(1, len(plan)) if plan[i].begins_dataset_shard(plan[i - 1]))])
    share = pixels[-1] / num_shares
    cuts = [0]
    for number in range(1, num_shares):
        even = int(np.abs(pixels - number * share).argmin())
        near = int(starts[np.abs(pixels[starts] - pixels[even]).argmin()])
        cut = near if abs(int(pixels[near] - pixels[even])) <= share / 8 else even
        if num_shares <= len(plan):  # no share is empty
            cut = min(max(cut, cuts[-1] + 1), len(plan) - (num_shares - number))
        cuts.append(max(cuts[-1], cut))
    return [*cuts, len(plan)]


def table_of(tiles: Iterable[Tile | StoredTile]) -> TileTable:
    """The ids and sizes of tiles that are sorted by id."""
    table = TileTable()
    for tile in tiles:
        table.add(tile.id, tile.height, tile.width, tile.shard if isinstance(tile, Tile) else 0)
    return table


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
    import zarr.codecs

    dtype, first = DTYPES[spec.dtype], shards[0]
    num_tiles = sum(shard.num_tiles for shard in shards)
    num_classes = len(spec.classes)
    chunk = (num_classes, *first.canvas)
    group = root.create_group(name, attributes={**spec.model_dump(mode="json"), "split": first.split})

    def create(key: str, axes: Mapping[str, int]) -> None:
        group.create_array(
            key,
            shape=(*axes.values(), num_tiles, *chunk),
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
        "class": ("class", _texts(spec.classes, num_classes)),
        "height": ("tile", np.concatenate([shard.sizes[0] for shard in shards])),
        "width": ("tile", np.concatenate([shard.sizes[1] for shard in shards])),
    }
    if spec.views:
        create("views", {"view": len(spec.views)})
        coordinates["view"] = ("view", _texts(spec.views, len(spec.views)))
    ids = (tile.id for tile in tiles_in_order(shards))
    array = group.create_array(
        "tile", shape=(num_tiles,), chunks=(min(num_tiles, _IDS_CHUNK),), dtype="string", dimension_names=("tile",)
    )
    for start in range(0, num_tiles, _IDS_CHUNK):
        count = min(_IDS_CHUNK, num_tiles - start)
        array[start : start + count] = _texts(itertools.islice(ids, count), count)
    for key, (dimension, values) in coordinates.items():
        array = group.create_array(
            key,
            shape=values.shape,
            chunks=values.shape,
            dtype="string" if values.dtype == _TEXT else values.dtype,
            dimension_names=(dimension,),
        )
        array[:] = values


def _texts(texts: Iterable[str], count: int) -> NDArray[Any]:
    """(T,) texts as Zarr keeps them: as Python objects, ids take three times as much memory."""
    found = np.empty(count, _TEXT)
    for number, text in enumerate(texts):
        found[number] = text
    return found
