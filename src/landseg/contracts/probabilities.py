"""The manifests of stored probabilities and of label maps (docs/contracts.md)."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from landseg.contracts.dataset import ClassSchema, Split
from landseg.contracts.documents import Blob, Document, Model, Sha256
from landseg.contracts.names import DatasetId, ModelName, TileId

DtypeName = Literal["companded", "uint8", "uint12", "uint16", "float16", "float32"]
Tta = Literal["none", "h", "hv"]
View = Literal["original", "horizontal", "vertical"]
Precision = Literal["fp32", "bf16", "fp16"]
LayerName = Literal["entropy", "disagreement"]
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
    """One object of a Zarr array, and what belongs to the same tiles.

    Attributes:
        canvas: height and width of the array's chunks: those of the largest tile in the array.
        capacity: chunks in a full shard of the array; the array's last shard may hold fewer tiles.
        tiles: in the order of the array's first axis.
        views: where views are kept, the same tiles' object of each view, in the order of :attr:`ProbsSpec.views`.
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
    """What decides stored probabilities, beside the tiles.

    Attributes:
        model: the model's name in the run, e.g. `swin`.
        model_sha256: of the model manifest.
        checkpoint_sha256: of the checkpoint; two sets of probabilities with the same one are the same model's.
        dataset_id, dataset_sha256: the staged dataset, and its manifest's checksum.
        classes: names in the order of the probabilities.
        dtype: how a probability is stored (:mod:`landseg.probabilities.codec`).
        tta: views averaged: none; original and horizontal flip; and vertical flip.
        views: the views that are stored one by one beside their mean, all of `tta` or none.
        precision: floating-point type of the network's forward pass.
    """

    model: ModelName
    model_sha256: Sha256
    checkpoint_sha256: Sha256
    dataset_id: DatasetId
    dataset_sha256: Sha256
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=255)]
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

    It holds no times and no places, so however many workers wrote the shards, and however often they were killed, its
    bytes are the same.
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


class EnsembleMember(Model):
    """A model in an ensemble.

    Attributes:
        model: the model's name.
        probs_sha256: of the manifest of its probabilities.
        weight: the factor of its probabilities in the sum.
        temperature: they were raised to 1 / temperature and brought to a sum of 1 before; 1 leaves them as they are.
    """

    model: ModelName
    probs_sha256: Sha256
    weight: Annotated[float, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)] = 1.0


class MapArchive(Blob):
    """A plain tar file of a split's maps: `<tile_id>.png`, sorted by id."""

    num_tiles: Annotated[int, Field(ge=1)]


class SceneLabels(Blob):
    """The label map of a scene whose tiles overlap: a GeoTIFF of the scene's size."""

    scene: TileId


class LabelsManifest(Document):
    """Label maps of an ensemble. Written last: label maps whose manifest exists are complete.

    Attributes:
        members: in the order in which probabilities are summed: by name, then by checksum.
        splits: an archive of single-channel palette PNGs each: the value of a pixel is its class id plus
            `class_schema.label_offset`, as in the labels of the dataset.
        layers: by layer, archives of 8-bit grey PNGs: 255 times the value, rounded.
        scenes: of splits with tiles cut from scenes: each scene's label map, its tiles' probabilities blended.
        summary: scores of every model, every subset of them and the ensemble, with intervals: `summary.json`.
        ranking: all tiles, those most worth a look first: `ranking.csv`.
        report: HTML.
    """

    kind: Literal["landseg.labels"] = "landseg.labels"
    version: int = 1
    dataset_id: str
    dataset_sha256: Sha256
    class_schema: ClassSchema
    members: Annotated[tuple[EnsembleMember, ...], Field(min_length=1)]
    splits: dict[Split, MapArchive]
    layers: dict[LayerName, dict[Split, MapArchive]] = Field(default_factory=dict)
    scenes: dict[Split, tuple[SceneLabels, ...]] = Field(default_factory=dict)
    summary: Blob
    ranking: Blob
    report: Blob
