"""Shards in a cache that is smaller than the dataset, and tiles that are read by range."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from raw_tiles import write_raw
from s3_endpoint import S3

from benchmarks.netproxy import FaultProxy
from landseg import storage
from landseg.cli.main import main
from landseg.contracts.errors import ConfigError, DamagedObjectError
from landseg.dataset.cache import ShardCache, default_limit
from landseg.dataset.reader import Access, StagedDataset


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def ref(s3: S3, tmp_path: Path) -> str:
    """A dataset of several shards in object storage."""
    raw, out = write_raw(tmp_path / "raw", train=24, val=1, test=1), str(tmp_path / "out")
    flags = ["--source", str(raw), "--storage-uri", s3.uri, "--output-dir", out, "--shard-bytes", "20000"]
    assert main(["stage-data", *flags]) == 0
    return f"{out}/dataset.json"


def read(dataset: StagedDataset) -> list[np.ndarray]:
    tiles = dataset.tiles("train")
    return [array for tile in tiles for array in (dataset.read_image("train", tile), dataset.read_label("train", tile))]


def taken(folder: Path) -> int:
    """Of the disk: files that were removed while they are mapped or open take room until they are closed."""
    files = [path.stat() for path in folder.glob("*.tar")]
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith(f"{folder}/") and not (found := descriptor.stat()).st_nlink:
                files.append(found)
    return sum(found.st_size for found in {found.st_ino: found for found in files}.values())


def test_a_cache_smaller_than_the_dataset_holds_neighbours_and_fetches_each_shard_once(
    ref: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    expected = read(StagedDataset.open(ref, tmp_path / "whole"))
    shards = StagedDataset.open(ref, tmp_path / "whole").manifest.splits["train"].shards
    assert len(shards) > 3
    limit = 2 * max(shard.size_bytes for shard in shards)
    before = proxy.counts["bytes downloaded"]
    dataset = StagedDataset.open(ref, tmp_path / "small", access="neighbours", cache_bytes=limit)
    most, places = 0, iter(range(len(expected)))
    gc.disable()  # nothing may refer to a shard until garbage is collected, whenever that is
    try:
        for tile in dataset.tiles("train"):
            assert np.array_equal(dataset.read_image("train", tile), expected[next(places)])
            assert np.array_equal(dataset.read_label("train", tile), expected[next(places)])
            most = max(most, taken(tmp_path / "small"))
    finally:
        gc.enable()
    assert max(shard.size_bytes for shard in shards) < most <= limit
    whole = sum(shard.size_bytes for shard in shards)
    assert whole < proxy.counts["bytes downloaded"] - before < 1.5 * whole


@pytest.mark.parametrize(("access", "share", "kept"), [("few", 9, False), ("random", 0.5, False), ("random", 1, True)])
def test_single_tiles_are_read_by_range_and_random_ones_where_the_dataset_does_not_fit(
    ref: str, tmp_path: Path, access: Access, share: float, kept: bool
) -> None:
    expected = read(StagedDataset.open(ref, tmp_path / "whole"))
    manifest = StagedDataset.open(ref, tmp_path / "whole").manifest
    whole = sum(shard.size_bytes for info in manifest.splits.values() for shard in info.shards)
    dataset = StagedDataset.open(ref, tmp_path / "small", access=access, cache_bytes=int(share * whole))
    assert all(map(np.array_equal, read(dataset), expected))
    assert (taken(tmp_path / "small") > 0) == kept
    if not kept:  # each tile's bytes are checked against its own checksum
        shard = manifest.splits["train"].shards[0]
        uri = storage.join(storage.parent(dataset.uri), shard.path)
        data = bytearray(storage.get_bytes(uri))
        tile = dataset.tiles("train")[0]
        data[sum(tile.image) - 1] ^= 1
        storage.put_bytes(uri, bytes(data))
        with pytest.raises(DamagedObjectError):
            dataset.read_image("train", tile)


def test_labels_near_each_other_are_one_request(ref: str, proxy: FaultProxy, tmp_path: Path) -> None:
    dataset = StagedDataset.open(ref, tmp_path / "few", access="few")
    tiles, shards = dataset.tiles("train"), dataset.manifest.splits["train"].shards
    expected = {tile.id: dataset.read_label("train", tile) for tile in tiles}
    before = proxy.counts["requests"]
    found = dataset.read_labels("train", reversed(tiles))
    assert proxy.counts["requests"] - before == len(shards) < len(tiles)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    uri = storage.join(storage.parent(dataset.uri), shards[0].path)
    data = bytearray(storage.get_bytes(uri))
    data[sum(tiles[0].label or ()) - 1] ^= 1
    storage.put_bytes(uri, bytes(data))
    with pytest.raises(DamagedObjectError):
        dataset.read_labels("train", tiles)


def test_threads_share_a_cache_that_holds_no_shard_whole(ref: str, tmp_path: Path) -> None:
    expected = read(StagedDataset.open(ref, tmp_path / "whole"))
    dataset = StagedDataset.open(ref, tmp_path / "small", access="neighbours", cache_bytes=1)
    tiles = dataset.tiles("train")
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda tile: dataset.read_image("train", tile), tiles))
    assert all(map(np.array_equal, images, expected[::2]))
    assert not list((tmp_path / "small").glob("*.coming"))


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    blobs = [storage.put_once(str(tmp_path), f"{name}.bin", name.encode() * 100) for name in "abc"]
    cache = ShardCache(tmp_path / "cache", 250)
    for blob in (blobs[0], blobs[1], blobs[0], blobs[2]):
        with cache.open(str(tmp_path / blob.path), blob):
            time.sleep(0.01)  # times of use differ
    assert {path.stem for path in (tmp_path / "cache").glob("*.tar")} == {blobs[0].sha256, blobs[2].sha256}


def test_a_pod_says_how_much_it_may_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.scratch_room(tmp_path / "not" / "there") > 0
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", "1000")
    assert (storage.scratch_room(tmp_path), default_limit(tmp_path)) == (1000, 750)
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", str(2**60))
    assert storage.scratch_room(tmp_path) < 2**60
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", "20Gi")
    with pytest.raises(ConfigError, match="expected a number of bytes, found '20Gi'"):
        storage.scratch_room(tmp_path)
