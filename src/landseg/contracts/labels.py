"""The manifest of label maps (docs/contracts.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from landseg.contracts.dataset import ClassSchema, Split
from landseg.contracts.documents import Blob, Document, Model, Sha256, parse_json, validate
from landseg.contracts.names import DatasetId, ModelName, TileId

LayerName = Literal["entropy", "disagreement", "confidence"]


class MemberRecord(Model):
    """A model of the ensemble, as the manifest records it.

    Attributes:
        model: the model's name.
        probs_sha256: of the manifest of its probabilities.
        weight: the factor of its probabilities in the sum.
        temperature: they were first raised to 1 / temperature and normalised to a sum of 1; 1 leaves them unchanged.
    """

    model: ModelName
    probs_sha256: Sha256
    weight: Annotated[float, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)] = 1.0


class MapArchive(Blob):
    """A plain tar file of maps, sorted by id: `<tile_id>.tif` of tiles with a georeference, else `.png`."""

    num_tiles: Annotated[int, Field(ge=1)]


_Archives = MapArchive | Annotated[tuple[MapArchive, ...], Field(min_length=1)]


class SceneMap(Blob):
    """A map of a scene whose tiles overlap: a GeoTIFF of the scene's size."""

    scene: TileId


class _ScoredSplit(BaseModel):
    trained_on_it: list[str] = []


class _Summary(BaseModel):
    """What readers of `summary.json` rely on; it holds more."""

    models: dict[str, dict[str, float]]
    ensemble: dict[str, float]
    scored_split: Split | None
    splits: dict[Split, _ScoredSplit]


def parse_summary(data: bytes, where: object) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        data: its bytes.
        where: the file, for the error line.

    Raises:
        ContractError: it is something else.
    """
    validate(_Summary, data, where)
    found: dict[str, Any] = parse_json(data, where)
    return found


class LabelsManifest(Document):
    """Label maps of an ensemble. Written last: label maps whose manifest exists are complete.

    In version 1, which is no longer written, each split has a single archive for each kind of map.

    Attributes:
        members: in the order in which their probabilities are summed: by name, then by checksum.
        splits: for each, archives of single-channel palette images, each tile in one of them: a pixel's value is its
            class id plus `class_schema.label_offset`, as in the dataset's labels. :meth:`archives` reads any version.
        layers: by layer and split, archives of 8-bit grey images: 255 times the value, rounded, in PNGs; 254 times in
            GeoTIFFs.
        scenes: for splits with tiles cut from scenes: each scene's label map, from its tiles' blended probabilities.
        scene_layers: by layer, likewise: 254 times the value, rounded.
        summary: `summary.json`, the scores of every model, every subset of them and the ensemble, with intervals.
        ranking: `ranking.csv`, all tiles, those most worth inspecting first.
        report: `report.html`.
    """

    VERSION: ClassVar[int] = 2
    EARLIER: ClassVar[tuple[int, ...]] = (1,)

    kind: Literal["landseg.labels"] = "landseg.labels"
    version: int = 2
    dataset_id: DatasetId
    dataset_sha256: Sha256
    class_schema: ClassSchema
    members: Annotated[tuple[MemberRecord, ...], Field(min_length=1)]
    splits: dict[Split, _Archives]
    layers: dict[LayerName, dict[Split, _Archives]] = Field(default_factory=dict)
    scenes: dict[Split, tuple[SceneMap, ...]] = Field(default_factory=dict)
    scene_layers: dict[LayerName, dict[Split, tuple[SceneMap, ...]]] = Field(default_factory=dict)
    summary: Blob
    ranking: Blob
    report: Blob

    @model_validator(mode="after")
    def _as_its_version(self) -> Self:
        for by_split in (self.splits, *self.layers.values()):
            for split, found in by_split.items():
                if isinstance(found, MapArchive) != (self.version == 1):
                    raise ValueError(f"maps of split {split} are not listed as in version {self.version}")
        return self

    def archives(self, split: Split, layer: LayerName | None = None) -> tuple[MapArchive, ...]:
        """The archives of a split's label maps, or of a layer."""
        found = (self.splits if layer is None else self.layers[layer])[split]
        return (found,) if isinstance(found, MapArchive) else found
