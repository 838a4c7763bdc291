"""The tile index on local disk: tiles read one at a time; an index that does not fit its manifest is refused."""

import tracemalloc

import pytest
from raw_tiles import write_raw

from landseg.contracts.errors import ConfigError, ContractError
from landseg.dataset.index import TileIndex


@pytest.fixture
def dataset(tmp_path, stage):
    return stage(write_raw(tmp_path / "raw", train=12, val=1, test=1)).dataset()


def test_tiles_are_read_one_at_a_time(dataset):
    index = dataset.index("train")
    tiles = list(index)
    assert len(index) == len(tiles) == 12
    assert tiles == dataset.tiles("train")
    assert [index.find(tile.id) for tile in reversed(tiles)] == tiles[::-1]
    for absent in ("", "a", f"{tiles[3].id}x", "z"):
        with pytest.raises(ConfigError, match="is not in"):
            index.find(absent)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: lines[:-1], "expected 12 tiles sorted by id, found 11"),
        (lambda lines: [*lines[1:], lines[0]], "another order"),
        (lambda lines: [*lines[:5], lines[4], *lines[6:]], "another order"),
        (lambda lines: [lines[0].replace(b'"shard":0', b'"shard":7'), *lines[1:]], "outside its shard"),
        (lambda lines: [b"{}\n", *lines[1:]], "field"),
    ],
)
def test_an_index_that_does_not_fit_its_manifest_is_refused(dataset, tmp_path, change, problem):
    info = dataset.manifest.splits["train"]
    path = tmp_path / "tiles.jsonl"
    path.write_text("".join(tile.model_dump_json() + "\n" for tile in dataset.tiles("train")))
    assert len(TileIndex(path, "here", info)) == 12
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ContractError, match=problem):
        TileIndex(path, "here", info)


def test_a_tile_costs_few_bytes_of_memory(dataset, tmp_path):
    """Each loader process has the index: of 100,000 tiles it takes a few MB."""
    first, count = dataset.tiles("train")[0], 3000
    path = tmp_path / "many.jsonl"
    path.write_text("".join(first.model_copy(update={"id": f"t{i:06}"}).model_dump_json() + "\n" for i in range(count)))
    info = dataset.manifest.splits["train"].model_copy(update={"num_tiles": count})
    TileIndex(path, "here", info)  # pydantic keeps some thousands of short texts, whoever asks for them
    tracemalloc.start()
    try:
        index = TileIndex(path, "here", info)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == count
    assert taken < 60 * count
