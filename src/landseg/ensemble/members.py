"""The models of an ensemble: opened, checked against each other and the dataset, in the order of the sum."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError, ContractError
from landseg.contracts.labels import MemberRecord
from landseg.contracts.names import check_model_name
from landseg.contracts.probabilities import StoredTile, tiles_digest
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.averaging import Average, subsets
from landseg.probabilities.codec import DTYPES
from landseg.probabilities.layout import most_shard_bytes, plan_shards, tiles_in_order
from landseg.probabilities.reader import ProbsReader, ShardReader

_MEMORY_BYTES = 768 << 20
_ROOM_SHARE = 0.4
"""Of the room in the scratch folder, for shards that threads have open. Half of it may be samples that weights are
fitted to; scenes keep a few more shards."""
_SHOWN = 3
"""How many differences an error lists."""


@dataclass(frozen=True)
class Member:
    """A model in an ensemble.

    Attributes:
        reader: its probabilities.
        weight: its factor in the sum.
        temperature: see :class:`~landseg.ensemble.averaging.Average`.
    """

    reader: ProbsReader
    weight: float
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """The model's name."""
        return self.reader.spec.model

    def describe(self) -> MemberRecord:
        """The member as the manifest of the labels records it."""
        return MemberRecord(
            model=self.name, probs_sha256=self.reader.sha256, weight=self.weight, temperature=self.temperature
        )


def make_average(members: Sequence[Member]) -> Average:
    """The arithmetic of an ensemble."""
    return Average(
        tuple(DTYPES[member.reader.spec.dtype] for member in members),
        tuple(member.weight for member in members),
        tuple(member.temperature for member in members),
    )


def affordable_threads(members: Sequence[Member], wanted: int) -> int:
    """How many threads may work at once: at most `wanted`, and few enough for what they read.

    Their tiles are to fit into 768 MiB; the shards that they fetch from object storage, into the scratch folder.
    """
    readers = [member.reader for member in members if storage.is_s3(member.reader.uri)]
    largest = members[0].reader.manifest.largest_px()
    shard_bytes = sum(most_shard_bytes(reader.spec, largest) for reader in readers)
    if shard_bytes:
        wanted = min(wanted, int(_ROOM_SHARE * storage.scratch_room(readers[0].scratch)) // shard_bytes)
    return max(1, min(wanted, _MEMORY_BYTES // _tile_bytes(members)))


def affordable_tiles_ahead(members: Sequence[Member], wanted: int) -> int:
    """How many tiles may be read ahead beside a row of tiles across a scene: at most `wanted`, in 384 MiB."""
    return max(1, min(wanted, _MEMORY_BYTES // 2 // _tile_bytes(members)))


def _tile_bytes(members: Sequence[Member]) -> int:
    """What averaging one of the largest tiles takes."""
    manifest = members[0].reader.manifest
    largest = manifest.largest_px()
    # Each model's tile, its views where they are kept, and two temporary arrays, all counted as float32.
    planes = sum(1 + len(member.reader.spec.views) for member in members) + 2
    # For every ensemble that is scored, each pixel's largest sum and its class.
    scored = 5 * len(subsets(len(members)))
    return (4 * len(manifest.spec.classes) * planes + scored) * largest


def room_needed(members: Sequence[Member], dataset: StagedDataset) -> storage.RoomNeeded:
    """What is kept on local disk of what lies in object storage: the dataset's indexes, a shard of each at once."""
    readers = [member.reader for member in members if storage.is_s3(member.reader.uri)]
    rows = dataset.room_needed("few").least_bytes if dataset.is_cached else 0
    least = fitting = rows
    for reader in readers:
        manifest = reader.manifest
        least += manifest.size_bytes() // sum(len(reader.index(split)) for split in manifest.splits)
        fitting += most_shard_bytes(reader.spec, manifest.largest_px())
    what = f"the dataset's indexes and a shard of each of {len(readers)} models"
    return storage.RoomNeeded(least, math.ceil(max(least, fitting) / _ROOM_SHARE), what)


@contextlib.contextmanager
def open_shards(members: Sequence[Member], split: Split, index: int) -> Iterator[list[ShardReader]]:
    """The same shard of all members, verified; see :meth:`ProbsReader.shard`.

    Raises:
        ContractError: the members' shards hold different tiles.
    """
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(member.reader.shard(split, index)) for member in members]
        for reader in readers[1:]:
            if reader.shard.tiles != readers[0].shard.tiles:
                raise ContractError(reader.uri, f"expected the same tiles as in {readers[0].uri}, found others")
        yield readers


def open_members(
    refs: Sequence[str], weights: Sequence[float] | None, dataset: StagedDataset, scratch: Path
) -> list[Member]:
    """Open models' probabilities and check that they may be averaged.

    Args:
        refs: manifests or references, in any order.
        weights: one per ref, in the same order; None for equal weights.
        dataset: the dataset that they have to be of.
        scratch: local folder for their shards while they are read.

    Returns:
        The members, sorted by name: floating-point sums depend on the order, and results must not.

    Raises:
        ConfigError: the weights are not usable as such.
        ContractError: the models differ in dataset, classes, splits or tiles, or one is given twice.
    """
    if weights is None:
        weights = [1.0] * len(refs)
    if len(weights) != len(refs):
        raise ConfigError("--weights", f"expected {len(refs)} weights, one per model, found {len(weights)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) <= 0:
        raise ConfigError("--weights", f"expected weights of at least 0 and not all 0, found {list(weights)}")
    members = [Member(ProbsReader.open(ref, scratch), weight) for ref, weight in zip(refs, weights, strict=True)]
    members.sort(key=lambda member: (member.name, member.reader.sha256))
    _check_distinct(members)
    for member in members:
        _check_dataset(member.reader, dataset)
    first = members[0].reader
    for member in members[1:]:
        _check_same_splits(first, member.reader)
    for split in first.manifest.splits:
        plan = plan_shards(split, dataset.index(split).table, dataset.schema.num_classes)
        expected = tiles_digest(tiles_in_order(plan))
        for member in members:
            if member.reader.index(split).tiles_sha256 != expected:
                _check_tiles(member.reader, split, list(tiles_in_order(plan)), dataset)
    return members


def _check_distinct(members: Sequence[Member]) -> None:
    by_checkpoint: dict[str, Member] = {}
    by_name: dict[str, Member] = {}
    for member in members:
        spec = member.reader.spec
        check_model_name(member.reader.uri, spec.model, "export its probabilities again with another --name")
        twin = by_checkpoint.setdefault(spec.checkpoint_sha256, member)
        if twin is not member:
            raise ContractError(
                member.reader.uri,
                f"holds the same model as {twin.reader.uri}: both are of checkpoint {spec.checkpoint_sha256[:12]}",
                "give each model once",
            )
        twin = by_name.setdefault(spec.model, member)
        if twin is not member:
            raise ContractError(
                member.reader.uri,
                f"its model has the same name, {spec.model!r}, as that of {twin.reader.uri}",
                "train one of them with another --name",
            )


def _check_dataset(reader: ProbsReader, dataset: StagedDataset) -> None:
    spec, manifest = reader.spec, dataset.manifest
    if spec.dataset_id != manifest.dataset_id:
        raise ContractError(
            reader.uri,
            f"expected probabilities for dataset {manifest.dataset_id} ({dataset.uri}), "
            f"found those for dataset {spec.dataset_id}",
            "export them for this dataset",
        )
    expected = dataset.schema.classes
    if spec.classes != expected:
        if len(spec.classes) != len(expected):
            problem = f"expected {len(expected)} classes, found {len(spec.classes)}"
        else:
            pairs = enumerate(zip(expected, spec.classes, strict=True))
            differing = [
                f"class {i} is {found!r} instead of {right!r}" for i, (right, found) in pairs if right != found
            ]
            problem = f"expected the dataset's classes in its order, found that {_first(differing)}"
        raise ContractError(reader.uri, problem, "export the probabilities for this dataset")


def _check_same_splits(first: ProbsReader, other: ProbsReader) -> None:
    a, b = sorted(first.manifest.splits), sorted(other.manifest.splits)
    if a != b:
        raise ContractError(
            other.uri,
            f"expected the splits {', '.join(a)} of {first.spec.model} ({first.uri}), found {', '.join(b)}",
            "export the same splits of every model",
        )


def _check_tiles(reader: ProbsReader, split: Split, expected: Sequence[StoredTile], dataset: StagedDataset) -> None:
    """Say how a model's tiles differ from the dataset's, if they do; in another order they are as good."""
    found = list(reader.index(split).tiles())
    missing = sorted({tile.id for tile in expected} - {tile.id for tile in found})
    extra = sorted({tile.id for tile in found} - {tile.id for tile in expected})
    if missing or extra:
        parts = [f"lacks {_first(missing)}"] * bool(missing) + [f"also has {_first(extra)}"] * bool(extra)
        raise ContractError(
            reader.uri,
            f"its {len(found)} tiles of split {split} are not the {len(expected)} of {dataset.uri}: "
            f"it {' and '.join(parts)}",
            "export the probabilities for this dataset",
        )
    sizes = {tile.id: tile for tile in expected}
    differing = [
        f"tile {tile.id} has {tile.height} x {tile.width} instead of {sizes[tile.id].height} x {sizes[tile.id].width}"
        for tile in found
        if tile != sizes[tile.id]
    ]
    if differing:
        raise ContractError(reader.uri, f"split {split}: {_first(differing)} pixels", "export the probabilities again")


def _first(items: Iterable[str]) -> str:
    """The first few of many, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
