"""Probability shards as they are written, published and read back."""

import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from pydantic import ValidationError

from landseg import storage
from landseg.contracts.errors import ContractError, DamagedObjectError, DataError, ObjectNotFoundError, StorageError
from landseg.contracts.probabilities import ProbsManifest, ProbsSpec, StoredTile
from landseg.contracts.tile import Tile
from landseg.probabilities.codec import DTYPES, dequantize, quantize
from landseg.probabilities.layout import plan_shards, share_cuts, table_of
from landseg.probabilities.reader import ProbsReader
from landseg.probabilities.writer import ProbsWriter

CLASSES = ("background", "field", "water")
DIGEST = "0" * 64


def make_spec(dtype="companded", **changes):
    values = {
        "model": "swin",
        "model_sha256": DIGEST,
        "checkpoint_sha256": DIGEST,
        "dataset_id": "0" * 16,
        "dataset_sha256": DIGEST,
        "classes": CLASSES,
        "dtype": dtype,
        "tta": "hv",
        "precision": "fp32",
    }
    return ProbsSpec(**{**values, **changes})


def make_tiles(num_tiles, sizes=((32, 32),)):
    return [
        Tile(
            id=f"t{i:04d}",
            shard=0,
            image=(0, 1),
            label=None,
            height=sizes[i % len(sizes)][0],
            width=sizes[i % len(sizes)][1],
            image_sha256=DIGEST,
            label_sha256=None,
        )
        for i in range(num_tiles)
    ]


def probs_of(tile):
    rng = np.random.default_rng(int(tile.id[1:]))
    raised = np.exp(3 * rng.normal(size=(len(CLASSES), tile.height, tile.width))).astype(np.float32)
    return raised / raised.sum(axis=0)


def views_of(tile, spec):
    return [np.roll(probs_of(tile), i + 1, axis=0) for i in range(len(spec.views))]


def write(writer, plans):
    for plan in plans:
        builder = writer.shard(plan)
        for tile in plan.tiles:
            builder.add(tile.id, probs_of(tile), views_of(tile, writer.spec))
        builder.close()


def first_version(loaded, scratch):
    """The manifest as version 1 has it: with the shards, and their tiles, in the manifest."""
    document = json.loads(loaded.document.to_bytes())
    reader = ProbsReader.open(loaded.uri, scratch)
    splits = {split: [shard.model_dump(mode="json") for shard in reader.index(split)] for split in document["splits"]}
    return {**document, "version": 1, "splits": splits}


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


MIXED = ((32, 32), (30, 32), (32, 150), (7, 9))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_read(tmp_path, dtype):
    tiles = make_tiles(40, MIXED)
    writer = ProbsWriter(str(tmp_path / "probs"), make_spec(dtype), {"val": tiles, "test": tiles[:3]})
    write(writer, writer.pending())
    loaded = writer.publish()
    reader = ProbsReader.open(loaded.uri, tmp_path)
    assert (reader.sha256, reader.manifest) == (loaded.sha256, loaded.document)
    by_id = {tile.id: tile for tile in tiles}
    for split, expected in (("val", tiles), ("test", tiles[:3])):
        seen = []
        for index, shard in enumerate(reader.index(split)):
            with reader.shard(split, index) as opened:
                for position, tile in enumerate(shard.tiles):
                    stored = quantize(probs_of(by_id[tile.id]), DTYPES[dtype])
                    np.testing.assert_array_equal(opened.read(position), stored)
                    seen.append(tile.id)
        assert sorted(seen) == [tile.id for tile in expected]
    np.testing.assert_array_equal(reader.read_tile("val", "t0002"), quantize(probs_of(by_id["t0002"]), DTYPES[dtype]))
    with pytest.raises(DataError, match="t0009"):
        reader.read_tile("test", "t0009")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_zarr_and_xarray_read_it(tmp_path, dtype):
    tiles = make_tiles(33, MIXED)
    writer = ProbsWriter(str(tmp_path), make_spec(dtype), {"val": tiles})
    write(writer, writer.pending())
    writer.publish()

    group = xarray.open_zarr(tmp_path / "probs.zarr" / "val" / "32x32")
    found = group.probs.sel(tile="t0005", **{"class": "water"})

    assert (int(found.height), int(found.width)) == (30, 32)
    expected = dequantize(quantize(probs_of(tiles[5]), DTYPES[dtype]), DTYPES[dtype])
    np.testing.assert_allclose(found.values[:30], expected[2], atol=1e-7)
    assert list(group.coords["class"].values) == list(CLASSES)
    array = zarr.open_array(tmp_path / "probs.zarr" / "val" / "32x32" / "probs", mode="r")
    assert array.shape == (9 + 8 + 8, 3, 32, 32)
    np.testing.assert_array_equal(array[3], quantize(probs_of(tiles[4]), DTYPES[dtype]))
    assert set(dict(zarr.open_group(tmp_path / "probs.zarr", mode="r").groups())) == {"val"}


WITHOUT_LANDSEG = """
import sys, xarray, zarr
root, tile, name = sys.argv[1:]

split = xarray.open_zarr(f"{root}/val/32x32")
probs = split.probs.sel(tile=tile)
water = probs.sel({"class": "water"})[: int(probs.height), : int(probs.width)]

tree = xarray.open_datatree(f"{root}/val", engine="zarr")
ids = [str(one) for group in tree.children.values() for one in group.tile.values]
group = zarr.open_group(f"{root}/val/32x32", mode="r")
row = list(group["tile"][:]).index(tile)
same = group["probs"][row, list(group["class"][:]).index("water")] * group["probs"].attrs["scale_factor"]
assert (same[: water.shape[0], : water.shape[1]] == water.values).all()
assert not any(module.startswith("landseg") for module in sys.modules)
water.values.astype("float32").tofile(name)
print(*sorted(ids), *water.shape, split.attrs["model"])
"""


def test_programs_without_landseg_read_what_several_writers_wrote(tmp_path):
    tiles = make_tiles(33, MIXED)
    for share in (1, 2, 0):
        writer = ProbsWriter(str(tmp_path), make_spec(), {"val": tiles})
        write(writer, writer.pending(share, 3))
    writer.publish()
    script = [sys.executable, "-I", "-c", WITHOUT_LANDSEG, str(tmp_path / "probs.zarr"), "t0005", str(tmp_path / "w")]
    done = subprocess.run(script, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*(tile.id for tile in tiles), "30", "32", "swin"]
    expected = dequantize(quantize(probs_of(tiles[5]), DTYPES["companded"]), DTYPES["companded"])[2]
    found = np.fromfile(tmp_path / "w", np.float32).reshape(30, 32)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def with_views():
    return make_spec(views=("original", "horizontal", "vertical"))


def test_views_are_kept_beside_their_mean(tmp_path):
    tiles = make_tiles(9, MIXED)
    writer = ProbsWriter(str(tmp_path / "views"), with_views(), {"val": tiles})
    write(writer, writer.pending())
    reader = ProbsReader.open(writer.publish().uri, tmp_path)
    write(plain := ProbsWriter(str(tmp_path / "plain"), make_spec(), {"val": tiles}), plain.pending())
    plain.publish()
    by_id = {tile.id: tile for tile in tiles}
    for index, shard in enumerate(reader.index("val")):
        assert (tmp_path / "views" / shard.path).read_bytes() == (tmp_path / "plain" / shard.path).read_bytes()
        for view in range(3):
            with reader.shard("val", index, view) as opened:
                for position, tile in enumerate(shard.tiles):
                    expected = views_of(by_id[tile.id], reader.spec)[view]
                    np.testing.assert_array_equal(opened.read(position), quantize(expected, DTYPES["companded"]))
    group = xarray.open_zarr(tmp_path / "views" / "probs.zarr" / "val" / "32x32")
    assert list(group.view.values) == ["original", "horizontal", "vertical"]
    found = group.views.sel(view="horizontal", tile="t0000").values
    np.testing.assert_allclose(found, views_of(tiles[0], reader.spec)[1], atol=0.01)


def test_a_shard_without_one_of_its_views_is_written_again(tmp_path):
    writer = ProbsWriter(str(tmp_path), with_views(), {"val": make_tiles(20)})
    plans = writer.pending()
    write(writer, plans)
    (tmp_path / plans[3].view_path(2)).unlink()
    assert writer.publish() is None
    assert writer.pending() == [plans[3]]
    write(writer, writer.pending())
    reader = ProbsReader.open(writer.publish().uri, tmp_path)
    path = tmp_path / reader.index("val")[3].views[1].path
    path.write_bytes(path.read_bytes()[::-1])
    with reader.shard("val", 3), reader.shard("val", 3, 0):
        pass
    with pytest.raises(DamagedObjectError, match="views/c/1/3"), reader.shard("val", 3, 1):
        pass


def test_views_that_are_not_those_promised_are_refused(tmp_path):
    writer = ProbsWriter(str(tmp_path), with_views(), {"val": make_tiles(1)})
    with pytest.raises(DataError, match="found 2 views"):
        writer.shard(writer.plan[0]).add(
            "t0000", probs_of(writer.plan[0].tiles[0]), [probs_of(writer.plan[0].tiles[0])] * 2
        )
    with pytest.raises(ValidationError, match="are not those of tta"):
        make_spec(tta="h", views=("original", "vertical"))


def test_zarr_writes_the_same_shards(tmp_path):
    tiles = make_tiles(3)
    writer = ProbsWriter(str(tmp_path / "ours"), make_spec(), {"val": tiles})
    write(writer, writer.pending())
    writer.publish()
    before = files(tmp_path / "ours")
    array = zarr.open_array(tmp_path / "ours" / "probs.zarr" / "val" / "32x32" / "probs", mode="r+")
    array[:] = array[:]
    after = files(tmp_path / "ours")
    shards = [name for name in before if "/probs/c/" in name]
    assert len(shards) == 3
    for name in shards:
        # Chunks may be in any order inside a shard; in these, there is only one.
        assert before[name] == after[name]


def test_any_number_of_shares_ends_with_the_same_bytes(tmp_path):
    tiles = make_tiles(50, MIXED)
    one = ProbsWriter(str(tmp_path / "one"), make_spec(), {"val": tiles})
    write(one, one.pending())
    one.publish()
    for share in (2, 0, 1):
        several = ProbsWriter(str(tmp_path / "several"), make_spec(), {"val": tiles})
        assert several.publish() is None
        write(several, several.pending(share, 3))
        assert several.pending(share, 3) == []
    assert several.publish() is not None
    assert files(tmp_path / "one") == files(tmp_path / "several")


def test_goes_on_after_the_last_finished_shard(tmp_path):
    tiles = make_tiles(20)
    writer = ProbsWriter(str(tmp_path), make_spec(), {"val": tiles})
    plans = writer.pending()
    write(writer, plans[:3])
    # Killed between a shard and its record: the shard does not count.
    (tmp_path / plans[1].record).unlink()
    # A record without its shard does not count either.
    (tmp_path / plans[2].path).write_bytes(b"half")
    assert ProbsWriter(str(tmp_path), make_spec(), {"val": tiles}).pending() == plans[1:]


def test_folder_of_other_tiles_is_refused(tmp_path):
    write(writer := ProbsWriter(str(tmp_path), make_spec(), {"val": make_tiles(4)}), writer.pending())
    with pytest.raises(ContractError, match="tiles other than"):
        ProbsWriter(str(tmp_path), make_spec(), {"val": make_tiles(5)[1:]}).pending()


def test_tiles_are_added_from_threads_in_any_order(tmp_path):
    tiles = make_tiles(64)
    writer = ProbsWriter(str(tmp_path), make_spec(), {"val": tiles})
    plan = writer.pending()[0]
    assert len(plan.tiles) == 4
    builder = writer.shard(plan)
    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)

        def add(tile):
            barrier.wait()
            builder.add(tile.id, probs_of(tile))

        list(pool.map(add, reversed(plan.tiles)))
    threaded = builder.close()
    write(again := ProbsWriter(str(tmp_path / "again"), make_spec(), {"val": tiles}), [plan])
    assert again.publish() is None
    assert storage.get_bytes(str(tmp_path / "again" / plan.path), sha256=threaded.sha256)


def test_an_incomplete_shard_is_not_written(tmp_path):
    writer = ProbsWriter(str(tmp_path), make_spec(), {"val": make_tiles(64)})
    plan = writer.pending()[0]
    builder = writer.shard(plan)
    builder.add("t0000", probs_of(plan.tiles[0]))
    with pytest.raises(DataError, match="3 tiles were not added, the first is t0001"):
        builder.close()
    with pytest.raises(DataError, match="t0063"):
        builder.add("t0063", probs_of(plan.tiles[0]))
    with pytest.raises(DataError, match="t0001"):
        builder.add("t0001", probs_of(plan.tiles[1])[:, 1:])
    assert files(tmp_path) == {}


@pytest.mark.parametrize("dtype", ["companded", "float32"])
def test_every_damaged_byte_is_found(tmp_path, dtype):
    writer = ProbsWriter(str(tmp_path), make_spec(dtype), {"val": make_tiles(1, ((6, 6),))})
    write(writer, writer.pending())
    reader = ProbsReader.open(writer.publish().uri, tmp_path)
    path = tmp_path / reader.index("val")[0].path
    good = path.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(DamagedObjectError), reader.shard("val", 0):
            pass
    for wrong in (good[:-1], good + b"\0", b""):
        path.write_bytes(wrong)
        with pytest.raises(DamagedObjectError), reader.shard("val", 0):
            pass
    path.unlink()
    with pytest.raises(StorageError), reader.shard("val", 0):
        pass


def test_manifest_of_an_unknown_version_is_refused(tmp_path):
    writer = ProbsWriter(str(tmp_path), make_spec(), {"val": make_tiles(1)})
    write(writer, writer.pending())
    data = writer.publish().document.to_bytes()
    (tmp_path / "manifest.json").write_bytes(data.replace(b'"version": 2', b'"version": 3'))
    with pytest.raises(ContractError, match="version 3"):
        ProbsReader.open(str(tmp_path / "manifest.json"), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda shard: shard.update(capacity=0),
        lambda shard: shard.update(canvas=[4, 4]),
        lambda shard: shard.update(path="../../other"),
        lambda shard: shard["tiles"].append(["another", 6, 6]),
        lambda shard: shard["tiles"].clear(),
        lambda shard: shard.update(views=[{key: shard[key] for key in ("path", "size_bytes", "sha256")}]),
    ],
)
def test_manifest_that_contradicts_itself_is_refused(tmp_path, change):
    writer = ProbsWriter(str(tmp_path), make_spec(), {"val": make_tiles(1, ((6, 6),))})
    write(writer, writer.pending())
    document = first_version(writer.publish(), tmp_path)
    ProbsManifest.parse(json.dumps(document).encode(), "manifest")
    change(document["splits"]["val"][0])
    with pytest.raises(ContractError):
        ProbsManifest.parse(json.dumps(document).encode(), "manifest")


def test_a_manifest_of_version_1_is_read(tmp_path):
    tiles = make_tiles(40, MIXED)
    writer = ProbsWriter(str(tmp_path), with_views(), {"val": tiles, "test": tiles[:3]})
    write(writer, writer.pending())
    loaded = writer.publish()
    now = ProbsReader.open(loaded.uri, tmp_path)
    (tmp_path / "old.json").write_text(json.dumps(first_version(loaded, tmp_path)))
    old = ProbsReader.open(str(tmp_path / "old.json"), tmp_path)
    for split in ("val", "test"):
        assert list(old.index(split)) == list(now.index(split))
        assert old.index(split).tiles_sha256 == now.index(split).tiles_sha256
        assert old.manifest.num_tiles(split) == now.manifest.num_tiles(split)
        for tile in tiles[:3]:
            np.testing.assert_array_equal(old.read_tile(split, tile.id, 1), now.read_tile(split, tile.id, 1))
    assert (old.manifest.size_bytes(), old.manifest.largest_px()) == (now.manifest.size_bytes(), 32 * 150)
    assert now.manifest.largest_px() == 32 * 150
    mixed = {**first_version(loaded, tmp_path), "version": 2}
    with pytest.raises(ContractError, match="not described as in version 2"):
        ProbsManifest.parse(json.dumps(mixed).encode(), "manifest")


def test_the_manifest_lists_parts_of_an_index_that_are_read_as_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("landseg.probabilities.shard_index._PART_TILES", 4)
    tiles = make_tiles(50, MIXED)
    writer = ProbsWriter(str(tmp_path), make_spec(), {"val": tiles})
    write(writer, writer.pending())
    loaded = writer.publish()
    parts = loaded.document.splits["val"].index
    assert len(parts) > 8
    assert writer.plan[0].tiles[0].id not in loaded.document.to_bytes().decode()
    (tmp_path / parts[1].path).unlink()
    broken = (tmp_path / parts[2].path).read_bytes()
    (tmp_path / parts[2].path).write_bytes(broken.replace(b"probs", b"sborp"))
    index = ProbsReader.open(loaded.uri, tmp_path).index("val")
    starts = np.cumsum([0, *(part.num_shards for part in parts)]).tolist()
    assert index[0].tiles == writer.plan[0].tiles
    assert index[len(index) - 1].tiles == writer.plan[-1].tiles
    with pytest.raises(ObjectNotFoundError, match=parts[1].path):
        index[starts[1]]
    with pytest.raises(DamagedObjectError, match=parts[2].path):
        index[starts[2]]
    assert writer.publish().document.splits["val"].num_tiles == 50


def test_shares_are_neighbours_and_begin_where_a_shard_of_the_dataset_begins():
    tiles = [tile.model_copy(update={"shard": number // 210}) for number, tile in enumerate(make_tiles(2000))]
    plan = plan_shards("val", table_of(tiles), 3)
    assert (len(plan), len(plan[0].tiles)) == (16, 125)
    tiny = plan_shards("val", table_of([StoredTile(f"{i:05d}", 512, 512) for i in range(2000)]), 9)
    for several, num_shares in ((plan, 4), (plan, 16), (plan, 40), (tiny, 7)):
        cuts = share_cuts(several, num_shares)
        assert (len(cuts), cuts[0], cuts[-1], cuts) == (num_shares + 1, 0, len(several), sorted(cuts))
        sizes = [sum(shard.num_tiles for shard in several[a:b]) for a, b in itertools.pairwise(cuts)]
        even = 2000 / num_shares
        assert max(sizes) <= 1.25 * even + len(several[0].tiles)
        assert num_shares > len(several) or min(sizes) > 0
    aligned = plan_shards(
        "val", table_of([one.model_copy(update={"shard": i // 260}) for i, one in enumerate(tiles)]), 300_000
    )
    cuts = share_cuts(aligned, 4)
    assert [aligned[cut].tiles[0].id for cut in cuts[1:-1]] == ["t0520", "t1040", "t1560"]


def test_plan_is_the_same_for_every_dtype_and_bounded_in_memory():
    many = [StoredTile(f"{i:05d}", 512, 512) for i in range(10_000)]
    plan = plan_shards("test", table_of(many), 9)
    assert {len(shard.tiles) for shard in plan[:-1]} == {28}
    assert [tile for shard in plan for tile in shard.tiles] == many
    few = plan_shards("val", table_of(many[:24]), 9)
    assert len(few) == 12  # two tiles each: they can be shared
    large = plan_shards("val", table_of([StoredTile("a", 9000, 9000)]), 9)
    assert [len(shard.tiles) for shard in large] == [1]


def test_tiles_of_all_sizes_share_few_arrays():
    rng = np.random.default_rng(0)
    tiles = [StoredTile(f"{i:05d}", *map(int, rng.integers(400, 601, 2))) for i in range(2000)]
    arrays = {(shard.array, shard.canvas) for shard in plan_shards("val", table_of(tiles), 9)}
    assert len(arrays) <= 9


def test_works_on_s3(s3, tmp_path):
    folder = f"{s3.uri}/probs"
    tiles = make_tiles(5)
    writer = ProbsWriter(folder, make_spec(), {"val": tiles})
    write(writer, writer.pending())
    reader = ProbsReader.open(writer.publish().uri, tmp_path)
    with reader.shard("val", 0) as opened:
        np.testing.assert_array_equal(opened.read(0), quantize(probs_of(tiles[0]), DTYPES["companded"]))
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(reader.read_tile("val", "t0004"), quantize(probs_of(tiles[4]), DTYPES["companded"]))
