"""Averaging a shard: what it leaves in object storage, so that a killed run resumes and workers share one.

<folder>/parts/<split>-<shard>.tar     the shard's label maps, as blocks of a tar archive
<folder>/parts/<split>-<shard>.json    a :class:`Part`, written after it: present means complete
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from landseg import storage
from landseg.contracts.dataset import Split, Tile
from landseg.contracts.documents import Blob, Count, Model, sha256_hex
from landseg.contracts.errors import DamagedObjectError
from landseg.contracts.labels import LayerName
from landseg.contracts.names import TileId
from landseg.contracts.probabilities import Tta
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.averaging import Average, Labels, disagreement, entropy, subsets
from landseg.ensemble.fewer_views import FewerViews, fewer_views, open_views
from landseg.ensemble.fitted_weights import SPLIT as FITTED_SPLIT
from landseg.ensemble.fitted_weights import Fit
from landseg.ensemble.maps import encode_grey, encode_png, tar_member
from landseg.ensemble.members import Member, make_average, open_shards
from landseg.probabilities.codec import Stored
from landseg.scoring.confusion import class_areas, confusion_matrix
from landseg.storage.records import read_record, write_record

SAMPLES = 64
"""A tile's disagreement and entropy are means over a grid of at least so many pixels in both directions."""

LABELS = "labels"
LAYERS: tuple[LayerName, ...] = get_args(LayerName)

Matrix = tuple[tuple[Count, ...], ...]


class TileResult(Model):
    """What averaging a tile yields beside its label map.

    Attributes:
        id: the tile.
        spans: (offset, length) of its block in each of the part's archives.
        pixels: per class, pixels of the ensemble's label map.
        disagreement: mean over the tile (:func:`landseg.ensemble.averaging.disagreement`); 0 of a single model.
        entropy: mean over the tile (:func:`landseg.ensemble.averaging.entropy`).
        differing: share of the tile's pixels where the models' own labels are not all the same.
        areas: per ensemble of :func:`landseg.ensemble.averaging.subsets`: per class, pixels that are right, pixels of
            the truth, pixels of the prediction, among those that are scored (none, in a tile that weights were fitted
            to); None where the tile has no label.
        view_areas: likewise of each model, then of the ensemble, with fewer views
            (:mod:`landseg.ensemble.fewer_views`).
    """

    id: TileId
    spans: dict[str, tuple[Count, Count]]
    pixels: tuple[Count, ...]
    disagreement: Annotated[float, Field(ge=0, le=1)]
    entropy: Annotated[float, Field(ge=0, le=1)]
    differing: Annotated[float, Field(ge=0, le=1)]
    areas: tuple[Matrix, ...] | None
    view_areas: dict[Tta, tuple[Matrix, ...]]


class Part(Model):
    """A finished shard.

    Attributes:
        archives: the label maps (:data:`LABELS`) and the layers.
        tiles: in the shard's order.
        confusions: sums over the tiles of the (C, C) matrices of each model, then of the ensemble; None where the split
            has no labels.
    """

    archives: dict[str, Blob]
    tiles: tuple[TileResult, ...]
    confusions: tuple[Matrix, ...] | None


@dataclass(frozen=True)
class Job:
    """An ensemble at work.

    Attributes:
        folder: URI of the stage's folder.
        dataset: the dataset.
        members: the models.
        tiles: of each split.
        scratch: local folder for shards.
        layers: maps to write beside the labels.
        fit: how the members' weights were fitted, where they were.
    """

    folder: str
    dataset: StagedDataset
    members: tuple[Member, ...]
    tiles: dict[Split, TileIndex]
    scratch: Path
    layers: tuple[LayerName, ...] = ()
    fit: Fit | None = None

    @functools.cached_property
    def average(self) -> Average:
        """The arithmetic."""
        return make_average(self.members)

    @functools.cached_property
    def fewer_views(self) -> tuple[FewerViews, ...]:
        """Ensembles of fewer views, to be scored beside."""
        return tuple(FewerViews(tta, self.members) for tta in fewer_views(self.members))

    @functools.cached_property
    def _fitted_on(self) -> frozenset[tuple[Split, str]]:
        return frozenset((FITTED_SPLIT, tile_id) for tile_id in (self.fit.fitted_on if self.fit else ()))

    @property
    def shards(self) -> list[tuple[Split, int]]:
        """Every shard: split and number."""
        manifest = self.members[0].reader.manifest
        return [(split, index) for split, shards in manifest.splits.items() for index in range(len(shards))]

    def finished(self, shard: tuple[Split, int]) -> Part | None:
        """The part of a shard, or None where it has still to be made."""
        part = read_record(Part, storage.join(self.folder, _record(shard)))
        for archive in part.archives.values() if part else ():
            found = storage.stat(storage.join(self.folder, archive.path))
            if found is None or found.size_bytes != archive.size_bytes:
                return None
        return part

    def part(self, shard: tuple[Split, int]) -> Part:
        """The part of a shard that is known to be finished.

        Raises:
            DamagedObjectError: it is gone, or not what was written.
        """
        uri = storage.join(self.folder, _record(shard))
        part = read_record(Part, uri)
        if part is None:
            raise DamagedObjectError(uri, "expected the record of a finished shard, found none", "run the stage again")
        return part

    def process(self, shard: tuple[Split, int]) -> Part:
        """Average a shard and write its part."""
        split, index = shard
        data = {kind: bytearray() for kind in (LABELS, *self.layers)}
        results: list[TileResult] = []
        confusions: NDArray[np.int64] | None = None
        wanted = [fewer.tta for fewer in self.fewer_views if self.dataset.manifest.splits[split].labelled]
        with (
            open_shards(self.members, split, index, self.scratch) as readers,
            open_views(self.members, wanted, split, index, self.scratch) as view_readers,
        ):
            for position, stored in enumerate(readers[0].shard.tiles):
                tile = self.tiles[split].find(stored.id)
                prepared = self.average.prepare([reader.read(position) for reader in readers])
                views = [[one.read(position) for one in each] for each in view_readers]
                result, blocks, matrices = self._tile(split, tile, prepared, views)
                spans = {kind: (len(data[kind]), len(block)) for kind, block in blocks.items()}
                results.append(result.model_copy(update={"spans": spans}))
                for kind, block in blocks.items():
                    data[kind] += block
                if matrices is not None:
                    confusions = matrices if confusions is None else confusions + matrices
        part = Part(
            archives={kind: self._put(f"parts/{kind}-{split}-{index:06d}.tar", data[kind]) for kind in data},
            tiles=tuple(results),
            confusions=None if confusions is None else _nested(confusions),
        )
        write_record(storage.join(self.folder, _record(shard)), part)
        return part

    def _put(self, path: str, content: bytearray) -> Blob:
        data = bytes(content)
        storage.put_bytes(storage.join(self.folder, path), data)
        return Blob(path=path, size_bytes=len(data), sha256=sha256_hex(data))

    def _tile(
        self, split: Split, tile: Tile, prepared: Sequence[Stored], views: Sequence[Sequence[Stored]]
    ) -> tuple[TileResult, dict[str, bytes], NDArray[np.int64] | None]:
        """The tile's result without spans, its tar blocks, and (N + 1, C, C) confusion matrices if it has a label."""
        schema, average = self.dataset.schema, self.average
        wanted = subsets(len(prepared)) if tile.label is not None else [tuple(range(len(prepared)))]
        labels = average.labels(prepared, wanted)
        every = max(1, min(tile.height, tile.width) // SAMPLES)
        sampled = [np.ascontiguousarray(values[:, ::every, ::every]) for values in prepared]
        alone = average.labels(sampled, [(model,) for model in range(len(prepared))])
        areas, matrices = None, None
        view_areas: dict[Tta, tuple[Matrix, ...]] = {}
        if tile.label is not None:
            truth = self.dataset.read_label(split, tile)
            if (split, tile.id) in self._fitted_on:
                truth = np.full_like(truth, schema.ignore_index)  # it would flatter the weights it chose
            count = functools.partial(
                confusion_matrix, truth, num_classes=schema.num_classes, ignore_index=schema.ignore_index
            )
            found = [count(one) for one in labels]
            areas = tuple(_nested(class_areas(matrix)) for matrix in found)
            for fewer in self.fewer_views:
                view_areas[fewer.tta] = tuple(_nested(class_areas(count(one))) for one in fewer.labels(views))
            by_subset = dict(zip(wanted, found, strict=True))
            matrices = np.stack([*(by_subset[(model,)] for model in range(len(prepared))), found[-1]])
        result = TileResult(
            id=tile.id,
            spans={},
            pixels=tuple(int(np.count_nonzero(labels[-1] == i)) for i in range(schema.num_classes)),
            disagreement=float(disagreement(sampled).mean(dtype=np.float64)),
            entropy=float(entropy(average.mean(sampled)).mean(dtype=np.float64)),
            differing=differing_share(alone),
            areas=areas,
            view_areas=view_areas,
        )
        images = {LABELS: encode_png(labels[-1], schema)}
        for layer in self.layers:
            images[layer] = encode_grey(
                disagreement(prepared) if layer == "disagreement" else entropy(average.mean(prepared))
            )
        return result, {kind: tar_member(f"{tile.id}.png", image) for kind, image in images.items()}, matrices


def differing_share(labels: Sequence[Labels]) -> float:
    """Share of the pixels where not all label maps are the same."""
    same = np.logical_and.reduce([one == labels[0] for one in labels])
    return float(1 - same.mean(dtype=np.float64))


def _nested(array: NDArray[np.int64]) -> Any:
    return tuple(map(_nested, array)) if array.ndim > 1 else tuple(array.tolist())


def _record(shard: tuple[Split, int]) -> str:
    return f"parts/{shard[0]}-{shard[1]:06d}.json"
