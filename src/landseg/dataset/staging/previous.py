"""The dataset that was staged last under the same name: its shards are reused while their tiles are wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from landseg import storage
from landseg.contracts.dataset import ClassSchema, DatasetManifest, Shard
from landseg.contracts.documents import Document, Sha256
from landseg.contracts.errors import ContractError, DamagedObjectError, LandsegError, ObjectNotFoundError
from landseg.contracts.names import DatasetId
from landseg.contracts.tile import Tile
from landseg.dataset.index import TileIndex
from landseg.dataset.places import datasets_folder, manifest_uri, shards_folder
from landseg.dataset.reader import StagedDataset
from landseg.dataset.scaling import needs_histogram
from landseg.dataset.staging.checksums import SplitChecksums
from landseg.dataset.staging.kept_scenes import KeptScenes
from landseg.dataset.staging.kept_split import KeptSplit, source_checksums
from landseg.dataset.staging.workspace import Workspace
from landseg.raw.config.rules import SceneRule
from landseg.raw.expected import Expected
from landseg.raw.findings import Finding
from landseg.raw.images.values import Kind

_LIVE_SHARE = 0.75
"""A shard is reused if at least this share of its bytes is still wanted; the rest is dead weight for readers."""
_MAX_SMALL = 8
"""At most this many shards below the smallest size are reused; more would pile up, so all of them are packed anew."""


class Latest(Document):
    """Which dataset of a name was published last, and what is known of the source it was staged from.

    Attributes:
        dataset_id: the dataset.
        source: the source's fingerprint.
        files: checksum of the list of its files (:mod:`landseg.dataset.staging.source_files`).
    """

    kind: Literal["landseg.latest"] = "landseg.latest"
    version: int = 1
    dataset_id: DatasetId
    source: Sha256 | None = None
    files: Sha256 | None = None


@dataclass
class Previous:
    """A published dataset whose shards are all in storage, with the rows of its tiles on local disk.

    Attributes:
        loaded: its manifest.
        tiles: its rows, by split.
        source: the fingerprint of the source it was staged from, where that is known.
        files: checksum of the list of its files, where there is one.
    """

    loaded: storage.Loaded[DatasetManifest]
    tiles: dict[str, TileIndex]
    source: str | None = None
    files: str | None = None

    @property
    def manifest(self) -> DatasetManifest:
        """Its manifest."""
        return self.loaded.document

    def kept(
        self,
        split: str,
        wanted: SplitChecksums,
        shard_bytes: int,
        workspace: Workspace,
        *,
        same_rules: bool = True,
        scene_rule: SceneRule | None = None,
    ) -> KeptSplit:
        """The shards of a split to reuse.

        Args:
            split: the split.
            wanted: checksums of image and label of the source's files, by stem. Tiles cut from a scene count as wanted
                while the scene is there: unless its files are unchanged, what they hold is known only after cutting.
            shard_bytes: target size of shards.
            workspace: takes the coordinate reference systems of the kept tiles.
            same_rules: whether files that are not stored as they are would be stored as they were; otherwise such tiles
                are not wanted.
            scene_rule: which images are scenes now, and how they are cut. With it, tiles with unchanged files go into
                the new index unchecked, and so do those of unchanged scenes that would be cut alike; None: none do.
        """
        if split not in self.tiles:
            return KeptSplit()
        info = {str(name): value for name, value in self.manifest.splits.items()}[split]
        live = [0] * len(info.shards)
        whole = [0] * len(info.shards)
        adopted = bytearray(len(self.tiles[split]))
        scenes = KeptScenes(scene_rule, wanted.is_as_listed) if scene_rule else None
        systems: dict[int, dict[int, int]] = {}  # by shard: where each coordinate reference system occurs first
        for number, tile in enumerate(self.tiles[split]):
            size = sum(length for _, length in tile.members)
            whole[tile.shard] += size
            if tile.location is not None and tile.location.crs is not None:
                systems.setdefault(tile.shard, {}).setdefault(tile.location.crs, number)
            is_unchanged = wanted.get(tile.id) == source_checksums(tile)
            if scenes and tile.scene:
                adopted[number] = scenes.add(tile, number)
            elif scene_rule:
                adopted[number] = is_unchanged and max(tile.height, tile.width) <= scene_rule.max_px
            as_it_is = tile.source_image_sha256 is None and tile.source_label_sha256 is None and tile.validity is None
            if not as_it_is and not same_rules:
                continue
            if tile.scene.id in wanted if tile.scene else is_unchanged:
                live[tile.shard] += size
        keep = [index for index in range(len(whole)) if live[index] >= _LIVE_SHARE * whole[index] > 0]
        small = {index for index in keep if info.shards[index].size_bytes < shard_bytes * 5 // 8}
        if len(small) > _MAX_SMALL:
            keep = [index for index in keep if index not in small]
        position = {index: new for new, index in enumerate(keep)}
        first = ((number, crs) for index in keep for crs, number in systems.get(index, {}).items())
        for _, crs in sorted(first):
            workspace.crs_index(self.manifest.crs[crs])
        for number in range(len(adopted)):
            adopted[number] &= self.tiles[split].table.shard(number) in position
        whole_scenes = scenes.settle(adopted) if scenes else frozenset[str]()

        def move(tile: Tile, shard: int) -> Tile:
            return tile.moved(shard, lambda crs: workspace.crs_index(self.manifest.crs[crs]))

        shards = [info.shards[index] for index in keep]
        return KeptSplit(shards, self.tiles[split], position, adopted, move, whole_scenes)

    def _has_transcoded_labels(self) -> bool:
        return any(tile.source_label_sha256 for tiles in self.tiles.values() for tile in tiles)

    def passed_same_checks(self, expected: Expected) -> bool:
        """Whether its tiles need no second look: they passed the same checks, and no histogram is needed."""
        config, kind = expected.config, expected.kind
        if kind is None or needs_histogram(config, kind):
            return False
        manifest = self.manifest
        dtype = manifest.source_values.dtype if manifest.source_values else manifest.dtype
        if not kind.is_like(Kind(manifest.num_bands, dtype)) or not self.has_rules_of(expected):
            return False
        if manifest.label_map != config.label_map:
            return False
        scale = expected.scale
        if scale and expected.conversion:
            scale = expected.conversion.record.stored_scale(scale, expected.bands)
        same = config.class_schema(expected.bands, scale)
        if same.palette != manifest.class_schema.palette and self._has_transcoded_labels():
            return False  # their colours may have been those of the palette
        # Other bands have other pixels without data, and another scale clips others: both are reported.
        return _rules(same) == _rules(manifest.class_schema)

    def has_rules_of(self, expected: Expected) -> bool:
        """Whether files that are not stored as they are were stored as they would be now."""
        return self.manifest.rules in (None, expected.rules) and (
            self.manifest.rules is not None or not expected.has_own_rules
        )


def _rules(schema: ClassSchema) -> tuple[object, ...]:
    labels = schema.num_classes, schema.label_offset, schema.ignore_index, schema.stored_ignore
    return *labels, schema.bands, schema.scale


def _latest_uri(storage_uri: str, name: str) -> str:
    return storage.join(datasets_folder(storage_uri), "by-name", f"{name}.json")


def load_previous(workspace: Workspace, name: str) -> tuple[Previous | None, list[Finding]]:
    """The last dataset of this name, if it is complete; otherwise None, and a note that says why."""
    try:
        latest = storage.read_document(Latest, _latest_uri(workspace.storage_uri, name)).document
    except ObjectNotFoundError:
        return None, []
    except ContractError as err:
        return None, [Finding.note(f"the dataset staged before cannot be reused: {err}")]
    return _load(workspace, latest)


def load_staged_from(workspace: Workspace, name: str, source: str) -> Previous | None:
    """The last dataset of this name, if it is complete and was staged from a source of this fingerprint."""
    try:
        latest = storage.read_document(Latest, _latest_uri(workspace.storage_uri, name)).document
    except (ObjectNotFoundError, ContractError):
        return None
    return _load(workspace, latest)[0] if latest.source == source else None


def _load(workspace: Workspace, latest: Latest) -> tuple[Previous | None, list[Finding]]:
    previous, notes = load_whole(workspace, latest.dataset_id)
    return previous and replace(previous, source=latest.source, files=latest.files), notes


def load_whole(workspace: Workspace, dataset_id: str) -> tuple[Previous | None, list[Finding]]:
    """A dataset, if it is published and all its shards are in storage; otherwise None, and a note that says why."""
    try:
        dataset = StagedDataset.open(manifest_uri(workspace.storage_uri, dataset_id), workspace.scratch)
    except ObjectNotFoundError:
        return None, []
    except LandsegError as err:
        return None, [Finding.note(f"the dataset staged before cannot be reused: {err}")]
    if lacking := lacking_shard(workspace.storage_uri, (info.shards for info in dataset.manifest.splits.values())):
        return None, [Finding.note(f"the dataset staged before lacks the shard {lacking.path}")]
    try:
        tiles = {str(split): dataset.index(split) for split in dataset.manifest.splits}
    except (ContractError, DamagedObjectError, ObjectNotFoundError) as err:
        return None, [Finding.note(f"the dataset staged before cannot be reused: {err}")]
    return Previous(storage.Loaded(dataset.uri, dataset.sha256, dataset.manifest), tiles), []


def lacking_shard(storage_uri: str, splits: Iterable[Iterable[Shard]]) -> Shard | None:
    """A shard that is missing in storage or has another size there; None without one."""
    present = storage.sizes_below(shards_folder(storage_uri))
    shards = itertools.chain.from_iterable(splits)
    return next((shard for shard in shards if present.get(shard.path.rpartition("/")[2]) != shard.size_bytes), None)


def files_uri(storage_uri: str, name: str) -> str:
    """The list of the files that the last dataset of a name was staged from."""
    return storage.join(datasets_folder(storage_uri), "by-name", f"{name}.files.jsonl")


def record_latest(storage_uri: str, manifest: DatasetManifest, source: str | None, files: str | None) -> None:
    """Record a dataset as the last one of its name; nothing is written where it is recorded already."""
    uri = _latest_uri(storage_uri, manifest.name)
    latest = Latest(dataset_id=manifest.dataset_id, source=source, files=files)
    try:
        recorded = storage.read_document(Latest, uri).document
        same = recorded.dataset_id == latest.dataset_id and recorded.files == files
        if recorded == latest or (same and source is None):
            return
    except (ObjectNotFoundError, ContractError):
        pass
    storage.write_document(uri, latest)
