"""Training tiles shard by shard: well mixed, the same for every team and restart, and each shard fetched about once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from raw_tiles import write_raw
from s3_endpoint import S3

from landseg import storage
from landseg.cli.main import main
from landseg.dataset import cache
from landseg.dataset.reader import StagedDataset
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import IMAGENET_MEAN, IMAGENET_STD
from landseg.training.input.loader import training_batches
from landseg.training.input.shard_order import ShardOrder, settle_order
from landseg.training.input.shards_ahead import ShardsAhead

SHARDS, EACH, MIXED = 40, 10, 6


def order_of(rank: int = 0, world: int = 1, **changes: Any) -> BatchOrder:
    shards = ShardOrder(np.repeat(np.arange(SHARDS), EACH), MIXED)
    return BatchOrder(SHARDS * EACH, 8 // world, world, rank, seed=3, shards=shards, **changes)


def tiles_of(order: BatchOrder, epoch: int) -> list[int]:
    first = epoch * order.iters_per_epoch
    return [index for batch in order.batches(first, first + order.iters_per_epoch) for _, index in batch]


def test_every_tile_comes_once_and_few_shards_are_open_at_a_time() -> None:
    epochs = [tiles_of(order_of(), epoch) for epoch in range(3)]
    for tiles in epochs:
        assert sorted(tiles) == list(range(SHARDS * EACH))
        shards = np.array(tiles) // EACH
        spans = [np.flatnonzero(shards == shard)[[0, -1]] for shard in range(SHARDS)]
        at_once = [sum(first <= at <= last for first, last in spans) for at in range(len(tiles))]
        assert max(at_once) <= MIXED + 1
        assert np.mean([len(set(shards[at : at + 8])) for at in range(0, len(tiles), 8)]) > 3  # mixed, at the ends too
        assert min(len(set(shards[at : at + 8])) for at in (0, len(tiles) - 8)) > 1
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_restart_and_any_team_train_on_the_same_batches() -> None:
    whole = list(order_of().batches(0, 120))
    assert list(order_of().batches(57, 120)) == whole[57:]
    pairs = zip(*(order_of(rank, 2).batches(0, 120) for rank in (0, 1)), strict=True)
    assert [sorted(first + second) for first, second in pairs] == [sorted(batch) for batch in whole]


def test_rare_classes_are_drawn_as_often_as_in_any_order() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(SHARDS * EACH))
    plain = BatchOrder(SHARDS * EACH, 8, 1, 0, 3, probabilities)
    orders = (plain, order_of(probabilities=probabilities))
    keys = [Counter(key for batch in one.batches(0, 50) for key in batch) for one in orders]
    assert keys[0] == keys[1]


@pytest.fixture
def ref(s3: S3, tmp_path: Path) -> str:
    """A dataset of many shards in object storage."""
    raw, out = write_raw(tmp_path / "raw", train=60, val=1, test=1), str(tmp_path / "out")
    flags = ["--source", str(raw), "--storage-uri", s3.uri, "--output-dir", out, "--shard-bytes", "10000"]
    assert main(["stage-data", *flags]) == 0
    return f"{out}/dataset.json"


def test_a_cache_smaller_than_the_dataset_fetches_each_shard_about_once_an_epoch(
    ref: str, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(shard.size_bytes for shard in StagedDataset.open(ref, tmp_path / "c").manifest.splits["train"].shards)
    dataset = StagedDataset.open(ref, tmp_path / "cache", access="neighbours", cache_bytes=8 * largest)
    mixed = settle_order(f"{s3.uri}/run", dataset, "auto").mixed_shards
    tiles = TileBatches(dataset, ("train",), build_pipeline(({"type": "Normalize"},), IMAGENET_MEAN, IMAGENET_STD), 0)
    assert 0 < mixed < len(tiles.shards) / 2
    assert len(tiles.shards) > 2 * 8  # the cache holds less than half
    order = BatchOrder(len(tiles), 2, 1, 0, 0, shards=ShardOrder(tiles.shard_numbers, mixed))
    fetched: list[str] = []
    stock = storage.get_file

    def get_file(uri: str, target: Path, *, sha256: str | None = None) -> None:
        fetched.append(uri)
        stock(uri, target, sha256=sha256)

    monkeypatch.setattr(cache.storage, "get_file", get_file)
    epochs = 3
    batches = training_batches(tiles, order, 0, epochs * order.iters_per_epoch, num_workers=0, pin_memory=False)
    assert sum(len(batch["img"]) for batch in batches) == epochs * len(tiles)
    assert len(set(fetched)) == len(tiles.shards)
    assert len(fetched) <= 1.2 * epochs * len(tiles.shards)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 8 * largest


def test_what_is_fetched_ahead_are_the_shards_of_the_next_batches() -> None:
    order = order_of()
    shards = [("train", number) for number in range(SHARDS)]
    ahead = ShardsAhead(None, order, shards, lead=2, stop=2 * order.iters_per_epoch)  # type: ignore[arg-type]
    per_epoch = order.iters_per_epoch
    for iteration in (0, 7, per_epoch - 1, per_epoch, 2 * per_epoch - 1):
        needed = [number for _, number in ahead.needed(iteration)]
        stop = min(iteration + 3, 2 * per_epoch)
        now = {index // EACH for batch in order.batches(iteration, stop) for _, index in batch}
        assert now <= set(needed)
        assert len(needed) <= 2 * (MIXED + 1) + 2
    ahead.close()


def test_the_first_attempt_settles_the_order(tmp_path: Path) -> None:
    shards = [SimpleNamespace(size_bytes=100)] * 50
    manifest = SimpleNamespace(splits={"train": SimpleNamespace(shards=shards)})

    def settle(name: str, cache_bytes: int, choice: Any = "auto", is_cached: bool = True) -> int:
        dataset = SimpleNamespace(manifest=manifest, is_cached=is_cached, cache_limit=cache_bytes)
        return settle_order(str(tmp_path / name), dataset, choice).mixed_shards  # type: ignore[arg-type]

    assert settle("fits", 5000) == settle("fits", 1000) == 0  # on another node, with less room: the order stays
    assert settle("small", 1000) == settle("small", 5000) == 5
    assert settle("tiny", 550) == 0  # too few shards fit to mix them: tiles are read one by one
    assert settle("local", 1, is_cached=False) == 0
    assert settle("asked", 10_000, "shards") == 32
    assert settle("asked not to", 1000, "tiles") == 0
