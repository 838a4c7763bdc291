"""The manifest of stored probabilities (docs/contracts.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from landseg.contracts.choices import Precision
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Blob, BlobList, Count, Document, Model, Sha256
from landseg.contracts.names import ClassName, DatasetId, ModelName, TileId

DtypeName = Literal["companded", "uint8", "uint12", "uint16", "float16", "float32"]
Tta = Literal["none", "h", "hv", "d4"]
View = Literal[
    "original",
    "horizontal",
    "vertical",
    "rotated_180",
    "transposed",
    "rotated_90",
    "rotated_270",
    "anti_transposed",
]
Px = Annotated[int, Field(ge=1)]

VIEWS: dict[Tta, tuple[View, ...]] = {
    "none": ("original",),
    "h": ("original", "horizontal"),
    "hv": ("original", "horizontal", "vertical"),
    "d4": get_args(View),
}
"""The views of each `--tta`: the tile, its flips, and its turns (clockwise); those of a smaller one come first."""
VIEW_WEIGHTS: dict[Tta, tuple[int, ...]] = {"none": (1,), "h": (1, 1), "hv": (2, 1, 1), "d4": (1,) * 8}
"""Of the views of each `--tta` in their mean.

mmseg: mmseg/datasets/pipelines/test_time_aug.py. MultiScaleFlipAug makes every pair of (flipped or not, direction), so
with two directions the original is averaged twice. Here it is computed once and weighted twice. mmseg has no turns.
"""


class StoredTile(NamedTuple):
    """A tile's id and its size in pixels."""

    id: TileId
    height: Px
    width: Px


class ProbsShard(Blob):
    """One object of a Zarr array, with the objects of the same tiles' views.

    Attributes:
        canvas: height and width of the array's chunks: those of the largest tile in the array.
        capacity: chunks in a full shard of the array; its last shard may hold fewer tiles.
        tiles: in the order of the array's first axis.
        views: where views are kept, one object of the same tiles per view, in the order of :attr:`ProbsSpec.views`.
        in_bf16: ids of tiles on which the network overflowed in fp16; they were predicted in bf16.
    """

    canvas: tuple[Px, Px]
    capacity: Px
    tiles: Annotated[tuple[StoredTile, ...], Field(min_length=1)]
    views: tuple[Blob, ...] = ()
    in_bf16: tuple[TileId, ...] = ()

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if len(self.tiles) > self.capacity:
            raise ValueError(f"{len(self.tiles)} tiles in a shard of {self.capacity}")
        for tile in self.tiles:
            if tile.height > self.canvas[0] or tile.width > self.canvas[1]:
                raise ValueError(f"tile {tile.id} is larger than its chunk")
        return self


class ProbsSpec(Model):
    """What stored probabilities depend on, apart from the tiles.

    Attributes:
        model: the model's name in the run, e.g. `swin`.
        model_sha256: of the model manifest.
        checkpoint_sha256: of the checkpoint; two sets of probabilities that share it come from the same model.
        dataset_id, dataset_sha256: the staged dataset, and the checksum of its manifest.
        classes: names in the order of the probabilities.
        dtype: how a probability is stored (:mod:`landseg.probabilities.codec`).
        tta: the views averaged: the tile alone, with its horizontal flip, or with its vertical flip as well.
        views: the views that are stored individually in addition to their mean: all those of `tta`, or none.
        precision: floating-point type of the network's forward pass.
    """

    model: ModelName
    model_sha256: Sha256
    checkpoint_sha256: Sha256
    dataset_id: DatasetId
    dataset_sha256: Sha256
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=255)]
    dtype: DtypeName
    tta: Tta
    views: tuple[View, ...] = ()
    precision: Precision

    @model_validator(mode="after")
    def _views_of_tta(self) -> Self:
        if self.views not in {(), VIEWS[self.tta]}:
            raise ValueError(f"views {self.views} are not those of tta {self.tta}")
        return self


class IndexPart(BlobList):
    """A part of a split's index of shards: JSON Lines, one :class:`ProbsShard` each, in the order of the shards."""

    ROW: ClassVar[type[Model]] = ProbsShard
    num_shards: Px
    num_tiles: Px


class ProbsSplit(Model):
    """The probabilities of a split.

    Attributes:
        size_bytes: of all objects that hold probabilities, views included.
        largest: height and width of the largest chunk.
        tiles_sha256: see :func:`tiles_digest`; of all tiles, in stored order.
        index: the parts of the index of shards.
    """

    size_bytes: Count
    largest: tuple[Px, Px]
    tiles_sha256: Sha256
    index: Annotated[tuple[IndexPart, ...], Field(min_length=1)]

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return sum(part.num_shards for part in self.index)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return sum(part.num_tiles for part in self.index)


class ProbsManifest(Document):
    """A model's probabilities. Written last: probabilities whose manifest exists are complete.

    It lists neither tiles nor shards, of which there may be millions, but parts of an index. It holds neither times nor
    locations, so its bytes are the same into however many shares the work was divided, and however often it was killed.
    In version 1, which is no longer written, the shards of a split stand in the manifest itself.
    """

    VERSION: ClassVar[int] = 2
    EARLIER: ClassVar[tuple[int, ...]] = (1,)

    kind: Literal["landseg.probs"] = "landseg.probs"
    version: int = 2
    spec: ProbsSpec
    splits: Annotated[
        dict[Split, ProbsSplit | Annotated[tuple[ProbsShard, ...], Field(min_length=1)]], Field(min_length=1)
    ]

    @model_validator(mode="after")
    def _as_its_version(self) -> Self:
        for split, found in self.splits.items():
            if isinstance(found, ProbsSplit) != (self.version == 2):
                raise ValueError(f"split {split} is not described as in version {self.version}")
            if isinstance(found, ProbsSplit):
                continue
            ids = [tile.id for shard in found for tile in shard.tiles]
            if len(set(ids)) != len(ids):
                raise ValueError(f"a tile is stored twice in split {split}")
            if any(len(shard.views) != len(self.spec.views) for shard in found):
                raise ValueError(f"a shard of split {split} has other views than {self.spec.views}")
        return self

    def num_tiles(self, split: Split) -> int:
        """Number of tiles in a split."""
        found = self.splits[split]
        return found.num_tiles if isinstance(found, ProbsSplit) else sum(len(shard.tiles) for shard in found)

    def largest_px(self) -> int:
        """Pixels of the largest chunk."""
        return max(
            height * width
            for found in self.splits.values()
            for height, width in ([found.largest] if isinstance(found, ProbsSplit) else [one.canvas for one in found])
        )

    def size_bytes(self) -> int:
        """Size of all objects that hold probabilities, views included."""
        total = 0
        for found in self.splits.values():
            if isinstance(found, ProbsSplit):
                total += found.size_bytes
            else:
                total += sum(blob.size_bytes for shard in found for blob in (shard, *shard.views))
        return total


def tiles_digest(tiles: Iterable[StoredTile]) -> str:
    """SHA-256 over the ids and sizes of tiles, in order: equal where the tiles and their order are equal."""
    found = hashlib.sha256()
    for tile in tiles:
        found.update(f"{tile.id}\n{tile.height}\n{tile.width}\n".encode(errors="surrogatepass"))
    return found.hexdigest()
