"""Where shards begin and end, and what their bytes are."""

from __future__ import annotations

import io
import tarfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.dataset.shards import Boundaries, ShardWriter


def layout(sizes: dict[str, int], shard_bytes: int) -> set[tuple[str, ...]]:
    boundaries = Boundaries(shard_bytes)
    shards: list[list[str]] = []
    for tile_id in sorted(sizes):
        if boundaries.starts_shard(tile_id, sizes[tile_id]) or not shards:
            shards.append([])
        shards[-1].append(tile_id)
    return {tuple(shard) for shard in shards}


def random_sizes(count: int) -> dict[str, int]:
    sizes = np.random.default_rng(0).integers(500, 1500, count)
    return {f"tile{index:05}": int(size) for index, size in enumerate(sizes)}


def test_shards_lie_within_the_bounds():
    sizes = random_sizes(5000)
    volumes = sorted(sum(sizes[tile] for tile in shard) for shard in layout(sizes, 100_000))
    assert volumes[-1] <= 156_250
    assert volumes[1] >= 62_500  # all but the last
    assert 50 < len(volumes) < 70


def test_an_added_tile_changes_the_shards_around_it_only():
    sizes = random_sizes(5000)
    before = layout(sizes, 100_000)
    for name in ("tile02500a", "tile99999", "aaa"):
        assert len(layout({**sizes, name: 1000}, 100_000) - before) <= 3


def test_a_tile_larger_than_a_shard_has_its_own():
    assert layout({"a": 10, "b": 10**9, "c": 10}, 1000) == {("a",), ("b",), ("c",)}


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1)


@settings(max_examples=60)
@given(st.dictionaries(names.filter(lambda name: name not in {".", ".."}), st.binary(max_size=2000), max_size=6))
def test_tarfile_reads_back_what_was_written(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("shard") / "x.tar"
    with ShardWriter(path) as writer:
        spans = {name: writer.add(name, content) for name, content in members.items()}
        writer.finish()
    data = path.read_bytes()
    assert len(data) == writer.size_bytes
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {info.name: tar.extractfile(info).read() for info in tar} == members
    assert all(data[start : start + length] == members[name] for name, (start, length) in spans.items())
