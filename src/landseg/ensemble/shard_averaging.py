"""Averaging a shard, and what that leaves in object storage, so that a killed run resumes and shares can be joined.

<folder>/parts/<kind>-<split>-<shard>.tar    the shard's label maps, or a layer, as blocks of a tar archive
<folder>/parts/<split>-<shard>.npz           its record (:mod:`landseg.ensemble.shard_results`), written last
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Blob, sha256_hex
from landseg.contracts.errors import DamagedObjectError
from landseg.contracts.labels import LayerName
from landseg.contracts.tile import Tile
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.averaging import Average, Labels, disagreement, entropy, subsets
from landseg.ensemble.fewer_views import FewerViewsAverage, fewer_views, open_views
from landseg.ensemble.fitted_weights import SPLIT as FITTED_SPLIT
from landseg.ensemble.fitted_weights import Fit
from landseg.ensemble.maps.files import tar_member
from landseg.ensemble.maps.tiles import TileMaps, layer_values, map_name
from landseg.ensemble.members import Member, make_average, open_shards
from landseg.ensemble.shard_results import LABELS, ShardResult
from landseg.ensemble.tile_counts import (
    TileResult,
    differing_share,
    mean_with_data,
    summed,
    tile_boundaries,
    tile_reliability,
)
from landseg.ensemble.trained_models import seen_by
from landseg.probabilities.codec import Stored
from landseg.probabilities.layout import plan_splits, share_cuts
from landseg.scoring.confusion import class_areas, confusion_matrix
from landseg.storage.array_records import read_whole, write_arrays

SAMPLES = 64
"""A tile's disagreement and entropy are means over a grid of at least this many pixels in both directions."""


@dataclass(frozen=True)
class Ensemble:
    """Models to be averaged on a dataset, and where the results go.

    Attributes:
        folder: URI of the stage's folder.
        dataset: the dataset.
        members: the models.
        tiles: the tiles of each split.
        scratch: local folder for temporary files.
        layers: the maps to write in addition to the labels.
        fit: how the members' weights were fitted, if they were.
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
    def tile_maps(self) -> TileMaps:
        """What writes the maps of tiles."""
        # What labels an image, not what it was staged as: the same models give the same file in any dataset.
        models = ", ".join(
            f"{member.name} {member.reader.spec.checkpoint_sha256[:12]} x {member.weight:g}" for member in self.members
        )
        return TileMaps(self.dataset.schema, self.dataset.manifest.crs, {"LANDSEG_MODELS": models})

    @functools.cached_property
    def fewer_views(self) -> tuple[FewerViewsAverage, ...]:
        """The same ensemble with fewer views, to be scored as well."""
        return tuple(FewerViewsAverage(tta, self.members) for tta in fewer_views(self.members))

    @functools.cached_property
    def _fitted_on(self) -> frozenset[tuple[Split, str]]:
        return frozenset((FITTED_SPLIT, tile_id) for tile_id in (self.fit.fitted_on if self.fit else ()))

    def is_fitted_on(self, split: Split, tile: Tile) -> bool:
        """Whether weights were fitted to a tile, which leaves it out of all scores: it would flatter them."""
        return (split, tile.id) in self._fitted_on

    def seen_by(self, split: Split) -> tuple[str, ...]:
        """The models that were trained on a split, so that scores on it say nothing about them."""
        return seen_by(self.members, self.dataset.manifest.dataset_id, split)

    @property
    def shards(self) -> list[tuple[Split, int]]:
        """Every shard: split and number."""
        reader = self.members[0].reader
        return [(split, number) for split in reader.manifest.splits for number in range(len(reader.index(split)))]

    def share(self, share: int, num_shares: int) -> list[tuple[Split, int]]:
        """The shards of a share (counted from 0, of `num_shares`): neighbours, whose labels lie in the same shards."""
        shards = self.shards
        plan = plan_splits({split: self.tiles[split] for split in self.tiles}, self.dataset.schema.num_classes)
        cuts = share_cuts(plan, num_shares)
        if len(plan) != len(shards):  # laid out by another release
            cuts = [number * len(shards) // num_shares for number in range(num_shares + 1)]
        return shards[cuts[share] : cuts[share + 1]]

    def parts(self) -> dict[str, int]:
        """What has been written below `parts/`, `maps/` and `scenes/` so far: sizes by path in the folder."""
        return {
            f"{name}/{path}": size
            for name in ("parts", "maps", "scenes")
            for path, size in storage.sizes_below(storage.join(self.folder, name)).items()
        }

    def is_recorded(self, shard: tuple[Split, int], parts: Mapping[str, int]) -> bool:
        """Whether a shard's record is among `parts`."""
        return _record(shard) in parts

    def is_finished(self, shard: tuple[Split, int], parts: Mapping[str, int]) -> bool:
        """Whether a shard has been averaged: its record is among `parts`, and so is what the record lists."""
        if _record(shard) not in parts:
            return False
        copy = self._copy(shard)
        is_kept = copy.exists()
        data = copy.read_bytes() if is_kept else read_whole(self._uri(shard))
        if data is None:
            return False
        result = ShardResult.parse(data, self._uri(shard))
        if any(parts.get(archive.path) != archive.size_bytes for archive in result.archives.values()):
            return False
        if not is_kept:
            self._keep(shard, data)
        return True

    def _uri(self, shard: tuple[Split, int]) -> str:
        return storage.join(self.folder, _record(shard))

    def _copy(self, shard: tuple[Split, int]) -> Path:
        """Where the record of a finished shard is kept: whoever joins all shares reads it several times."""
        return self.scratch / "results" / _record(shard).rpartition("/")[2]

    def _keep(self, shard: tuple[Split, int], data: bytes) -> None:
        self._copy(shard).parent.mkdir(exist_ok=True)
        self._copy(shard).write_bytes(data)

    def result(self, shard: tuple[Split, int]) -> ShardResult:
        """The result of a shard that is known to be finished.

        Raises:
            DamagedObjectError: it is gone, or not what was written.
        """
        uri, copy = self._uri(shard), self._copy(shard)
        data = copy.read_bytes() if copy.exists() else read_whole(uri)
        if data is None:
            raise DamagedObjectError(uri, "expected the record of a finished shard, found none", "run the stage again")
        return ShardResult.parse(data, uri)

    def average_shard(self, shard: tuple[Split, int]) -> ShardResult:
        """Average a shard and write its result."""
        split, index = shard
        kinds = (LABELS, *self.layers)
        data = {kind: bytearray() for kind in kinds}
        is_labelled = self.dataset.manifest.splits[split].labelled
        found: list[TileResult] = []
        with (
            open_shards(self.members, split, index) as readers,
            open_views(
                self.members, [fewer.tta for fewer in self.fewer_views if is_labelled], split, index
            ) as view_readers,
        ):
            tiles = [self.tiles[split].find(stored.id) for stored in readers[0].shard.tiles]
            truths = self.dataset.read_labels(split, tiles)
            spans = np.zeros((len(kinds), len(tiles), 2), np.int64)
            for position, tile in enumerate(tiles):
                prepared = self.average.prepare([reader.read(position) for reader in readers])
                views = [[one.read(position) for one in each] for each in view_readers]
                result, blocks = self._tile(split, tile, truths.get(tile.id), prepared, views)
                found.append(result)
                for number, kind in enumerate(kinds):
                    spans[number, position] = len(data[kind]), len(blocks[kind])
                    data[kind] += blocks[kind]
        is_cut = np.array([tile.scene is not None for tile in tiles])
        confusions, reliability, boundaries = summed(found, is_cut, self.dataset.schema.num_classes)
        shard_result = ShardResult(
            archives={kind: self._put(f"parts/{kind}-{split}-{index:06d}.tar", data[kind]) for kind in kinds},
            ids=tuple(tile.id for tile in tiles),
            is_cut=is_cut,
            spans=spans,
            pixels=np.array([one.pixels for one in found], np.uint32),
            uncertainty=np.array([one.uncertainty for one in found], np.float64),
            ttas=tuple(fewer.tta for fewer in self.fewer_views if is_labelled),
            areas=np.array([one.areas for one in found], np.uint32),
            confusions=confusions,
            reliability=reliability,
            boundaries=boundaries,
        )
        self._keep(shard, write_arrays(storage.join(self.folder, _record(shard)), shard_result.arrays()))
        return shard_result

    def _put(self, path: str, content: bytearray) -> Blob:
        data = bytes(content)
        storage.put_bytes(storage.join(self.folder, path), data)
        return Blob(path=path, size_bytes=len(data), sha256=sha256_hex(data))

    def _tile(
        self,
        split: Split,
        tile: Tile,
        truth: Labels | None,
        prepared: Sequence[Stored],
        views: Sequence[Sequence[Stored]],
    ) -> tuple[TileResult, dict[str, bytes]]:
        """The tile's result and its tar blocks."""
        schema, average = self.dataset.schema, self.average
        wanted = subsets(len(prepared)) if tile.label is not None else [tuple(range(len(prepared)))]
        labels = average.labels(prepared, wanted)
        every = max(1, min(tile.height, tile.width) // SAMPLES)
        sampled = [np.ascontiguousarray(values[:, ::every, ::every]) for values in prepared]
        alone = average.labels(sampled, [(model,) for model in range(len(prepared))])
        valid = self.dataset.read_valid(split, tile)
        with_data = None if valid is None else valid[::every, ::every]
        chosen = labels[-1] if valid is None else labels[-1][valid]
        mean = average.mean(sampled)
        areas: list[NDArray[np.int64]] = []
        counts: list[NDArray[np.int64]] = []
        if truth is not None:
            if self.is_fitted_on(split, tile):
                truth = np.full_like(truth, schema.ignore_index)
            count = functools.partial(
                confusion_matrix, truth, num_classes=schema.num_classes, ignore_index=schema.ignore_index
            )
            found = [count(one) for one in labels]
            areas = [class_areas(matrix) for matrix in found]
            for fewer in self.fewer_views:
                areas += [class_areas(count(one)) for one in fewer.labels(fewer.prepare(views))]
            judged = [*(wanted.index((model,)) for model in range(len(prepared))), len(wanted) - 1]
            chosen_labels = [labels[i] for i in judged]
            on_grid = [one[::every, ::every] for one in chosen_labels]
            counts = [
                np.stack([found[i] for i in judged]),
                tile_reliability(average, sampled, mean, on_grid, truth[::every, ::every]),
                tile_boundaries(chosen_labels, truth, schema.num_classes),
            ]
        result = TileResult(
            pixels=[int(np.count_nonzero(chosen == i)) for i in range(schema.num_classes)],
            uncertainty=(
                mean_with_data(disagreement(sampled), with_data),
                mean_with_data(entropy(mean), with_data),
                differing_share(alone, with_data),
            ),
            areas=np.array(areas, np.int64).reshape(-1, 3, schema.num_classes),
            counts=counts,
        )
        images = {LABELS: self.tile_maps.labels(tile, labels[-1], valid)}
        for layer in self.layers:
            images[layer] = self.tile_maps.layer(tile, layer, layer_values(layer, average, prepared), valid)
        return result, {kind: tar_member(map_name(tile), image) for kind, image in images.items()}


def _record(shard: tuple[Split, int]) -> str:
    return f"parts/{shard[0]}-{shard[1]:06d}.npz"
