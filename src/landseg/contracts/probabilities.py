"""The manifest of stored probabilities (docs/contracts.md)."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from landseg.contracts.choices import Precision
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Blob, Document, Model, Sha256
from landseg.contracts.names import ClassName, DatasetId, ModelName, TileId

DtypeName = Literal["companded", "uint8", "uint12", "uint16", "float16", "float32"]
Tta = Literal["none", "h", "hv"]
View = Literal["original", "horizontal", "vertical"]
Px = Annotated[int, Field(ge=1)]

VIEWS: dict[Tta, tuple[View, ...]] = {
    "none": ("original",),
    "h": ("original", "horizontal"),
    "hv": ("original", "horizontal", "vertical"),
}
"""The views of each `--tta`: the tile itself, and its flips."""


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
    """

    canvas: tuple[Px, Px]
    capacity: Px
    tiles: Annotated[tuple[StoredTile, ...], Field(min_length=1)]
    views: tuple[Blob, ...] = ()

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


class ProbsManifest(Document):
    """A model's probabilities. Written last: probabilities whose manifest exists are complete.

    It holds neither times nor locations, so its bytes are the same into however many shares the work was divided, and
    however often it was killed.
    """

    kind: Literal["landseg.probs"] = "landseg.probs"
    version: int = 1
    spec: ProbsSpec
    splits: Annotated[dict[Split, Annotated[tuple[ProbsShard, ...], Field(min_length=1)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique_tiles(self) -> Self:
        for split in self.splits:
            ids = [tile.id for tile in self.tiles(split)]
            if len(set(ids)) != len(ids):
                raise ValueError(f"a tile is stored twice in split {split}")
            if any(len(shard.views) != len(self.spec.views) for shard in self.splits[split]):
                raise ValueError(f"a shard of split {split} has other views than {self.spec.views}")
        return self

    def tiles(self, split: Split) -> list[StoredTile]:
        """The tiles of a split, in stored order."""
        return [tile for shard in self.splits[split] for tile in shard.tiles]
