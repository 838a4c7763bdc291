"""Probability shards as they are written, published and read back."""

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
from landseg.contracts.dataset import Tile
from landseg.contracts.errors import ContractError, DamagedObjectError, DataError, StorageError
from landseg.contracts.probabilities import ProbsManifest, ProbsSpec, StoredTile
from landseg.probabilities.codec import DTYPES, dequantize, quantize
from landseg.probabilities.layout import plan_shards
from landseg.probabilities.store import ProbsReader, ProbsWriter

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
        for index, shard in enumerate(reader.manifest.splits[split]):
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
    for index, shard in enumerate(reader.manifest.splits["val"]):
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
    path = tmp_path / reader.manifest.splits["val"][3].views[1].path
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
    path = tmp_path / reader.manifest.splits["val"][0].path
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
    (tmp_path / "manifest.json").write_bytes(data.replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(ContractError, match="version 2"):
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
    document = json.loads(writer.publish().document.to_bytes())
    change(document["splits"]["val"][0])
    with pytest.raises(ContractError):
        ProbsManifest.parse(json.dumps(document).encode(), "manifest")


def test_plan_is_the_same_for_every_dtype_and_bounded_in_memory():
    many = [StoredTile(f"{i}", 512, 512) for i in range(10_000)]
    plan = plan_shards("test", many, 9)
    assert {len(shard.tiles) for shard in plan[:-1]} == {28}
    assert [tile for shard in plan for tile in shard.tiles] == many
    few = plan_shards("val", many[:24], 9)
    assert len(few) == 12  # two tiles each: they can be shared
    large = plan_shards("val", [StoredTile("a", 9000, 9000)], 9)
    assert [len(shard.tiles) for shard in large] == [1]


def test_tiles_of_all_sizes_share_few_arrays():
    rng = np.random.default_rng(0)
    tiles = [StoredTile(f"{i:05d}", *map(int, rng.integers(400, 601, 2))) for i in range(2000)]
    arrays = {(shard.array, shard.canvas) for shard in plan_shards("val", tiles, 9)}
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
