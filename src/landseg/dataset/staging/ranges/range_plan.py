"""Ranges of a split's tiles: what is checked, packed and recorded together, by whichever worker.

Where a range ends follows from ids and sizes of the source's files alone, so that every worker finds the same ranges
before a tile is read. A range makes one shard, or several where its tiles grow when they are stored, and no shard holds
tiles of two ranges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from landseg.contracts.documents import MAX_DOCUMENT_BYTES, digest
from landseg.contracts.errors import ConfigError
from landseg.dataset.shards import Boundaries
from landseg.dataset.staging.checksums import Checksums
from landseg.dataset.staging.kept_split import KeptSplit
from landseg.dataset.staging.source_files import versions
from landseg.raw.checks import check_tiles
from landseg.raw.expected import Expected
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import BandFiles

_FORMAT = 1
"""Raise it where records of ranges mean something else."""
SHARD_ENTRY_BYTES = 280
"""What a shard takes in the manifest, at most."""
_SAMPLES = 8
_AS_THEY_ARE = (".tif", ".tiff")


@dataclass(frozen=True)
class TileRange:
    """Neighbouring tiles of a split.

    Attributes:
        number: position among the dataset's ranges.
        split: their split.
        tiles: the tiles, sorted by id.
        size_bytes: of their files.
        key: a digest of all that decides what becomes of them; None where that is not known without reading them.
    """

    number: int
    split: str
    tiles: Sequence[SourceTile]
    size_bytes: int
    key: str | None


def plan_ranges(
    source: Source,
    expected: Expected,
    tiles: Mapping[str, Sequence[SourceTile]],
    kept: Mapping[str, KeptSplit],
    checksums: Mapping[str, Mapping[str, Checksums]],
    shard_bytes: int,
    code: str,
) -> list[TileRange]:
    """The ranges of all splits, in order.

    Args:
        source: where the files are.
        expected: what the tiles must be, and how they are stored.
        tiles: those to check, by split, sorted by id.
        kept: what each split takes over from an earlier dataset.
        checksums: of the files, by split and id, where they are known.
        shard_bytes: target size of a shard.
        code: a digest of the code that checks and packs.

    Raises:
        ConfigError: they would make more shards than a manifest can list.
    """
    rules = {
        "format": _FORMAT,
        "code": code,
        "source": source.uri,
        "config": expected.config.model_dump(mode="json"),
        "kind": repr(expected.kind),
        "measured": repr(expected.measured),
        "shared_labels": expected.shared_labels and expected.shared_labels.sha256,
        "shard_bytes": shard_bytes,
    }
    found: list[TileRange] = []
    for split, of_split in tiles.items():
        share = _stored_share(source, expected, of_split)
        own = kept[split]
        base = digest({**rules, "split": split, "kept": [shard.sha256 for shard in own.shards]})
        known = checksums.get(split, {})
        for some in _divided(of_split, own, known, shard_bytes, share):
            size = sum(tile.size_bytes for tile in some)
            found.append(TileRange(len(found), split, some, size, _key(base, some, own)))
    _check_num_shards(len(found) + sum(len(own.shards) for own in kept.values()), shard_bytes)
    return found


def _check_num_shards(num_shards: int, shard_bytes: int) -> None:
    """Refuse, before any of them is packed, more shards than a manifest can list: each range makes at least one."""
    most = MAX_DOCUMENT_BYTES // SHARD_ENTRY_BYTES
    if num_shards > most:
        fitting = -(-shard_bytes * num_shards // most)
        raise ConfigError(
            "--shard-bytes",
            f"expected at least {fitting}, found {shard_bytes}: the dataset's manifest can list {most} shards, "
            f"and these would be {num_shards}",
        )


def share_of(ranges: Sequence[TileRange], share: int, num_shares: int) -> list[TileRange]:
    """Neighbouring ranges that one worker does, all shares of about the same bytes.

    Args:
        ranges: all ranges.
        share: which share, counted from 1.
        num_shares: number of shares.
    """
    if num_shares == 1 or not ranges:
        return list(ranges)
    ends = np.cumsum([one.size_bytes for one in ranges])
    middles = ends - np.array([one.size_bytes for one in ranges]) / 2
    owners = np.minimum(middles * num_shares // max(1, ends[-1]), num_shares - 1)
    return [one for one, owner in zip(ranges, owners, strict=True) if owner == share - 1]


def _divided(
    tiles: Sequence[SourceTile],
    kept: KeptSplit,
    checksums: Mapping[str, Checksums],
    shard_bytes: int,
    share: float,
) -> Iterator[Sequence[SourceTile]]:
    """Tiles divided where shards are to end; those that lie in shards that are kept take no room."""
    boundaries = Boundaries(shard_bytes)
    start = 0
    for position, tile in enumerate(tiles):
        is_kept = tile.id in checksums and kept.find_source(tile.id, checksums[tile.id]) is not None
        size = 0 if is_kept else round(tile.size_bytes * share)
        if boundaries.starts_shard(tile.id, size):
            yield tiles[start:position]
            start = position
    if start < len(tiles):
        yield tiles[start:]


def _stored_share(source: Source, expected: Expected, tiles: Sequence[SourceTile]) -> float:
    """How many bytes are stored for each of the source's, by a few tiles, evenly spread."""
    chosen = tiles[:: max(1, len(tiles) // _SAMPLES)][:_SAMPLES]
    if expected.kind is None or (not expected.has_own_rules and all(map(_is_stored_as_it_is, chosen))):
        return 1.0
    stored = size = 0
    for checked, tile in zip(check_tiles(source, expected, chosen).tiles, chosen, strict=True):
        if checked.facts is not None:
            stored += len(checked.image) + len(checked.label or b"") + len(checked.valid or b"")
            size += tile.size_bytes
    return stored / size if size else 1.0


def _is_stored_as_it_is(tile: SourceTile) -> bool:
    label = tile.label
    has_own_label = not tile.shares_label and (label is None or label.path.lower().endswith((".png", *_AS_THEY_ARE)))
    is_one_file = not isinstance(tile.image, BandFiles)
    return has_own_label and is_one_file and tile.image.path.lower().endswith(_AS_THEY_ARE)


def _key(base: str, tiles: Iterable[SourceTile], kept: KeptSplit) -> str | None:
    found = hashlib.sha256(base.encode())
    for tile in tiles:
        known = versions(tile)
        if not known:
            return None
        before = kept.get(tile.id)
        row = [tile.id, known, before and before.model_dump(mode="json")]
        found.update(json.dumps(row, separators=(",", ":")).encode())
    return found.hexdigest()
