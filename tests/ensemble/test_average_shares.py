"""Workers, threads and restarts of average-probs: the same bytes, and no work done twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from averages import average, label_maps, objects, published
from ensembles import export

from landseg import storage
from landseg.ensemble.maps import archives
from landseg.ensemble.maps.archives import write_archive
from landseg.ensemble.members import affordable_threads, open_members
from landseg.ensemble.shard_averaging import Ensemble
from landseg.probabilities.layout import most_shard_bytes
from landseg.probabilities.reader import ProbsReader


def test_order_shares_and_threads_change_no_bit(staged, exported, tmp_path):
    refs = list(exported.values())
    weights = ("--weights", "0.3,0.5,0.2")
    average(staged, refs, tmp_path / "a", *weights, "--num-workers", "1")
    average(staged, [refs[2], refs[0], refs[1]], tmp_path / "b", "--weights", "0.2,0.3,0.5", "--num-workers", "4")
    for share in (3, 1):
        assert average(staged, refs, tmp_path / "c", *weights, "--worker", f"{share}/3") == 0
        assert objects(tmp_path / "c").keys() == {"labels-test-000000.tar"}  # all of test was in the third share
    average(staged, refs, tmp_path / "c", *weights, "--worker", "2/3")
    assert objects(tmp_path / "a").keys() == {
        "manifest.json", "labels-val-000000.tar", "labels-test-000000.tar", "summary.json", "ranking.csv", "report.html"
    }  # fmt: skip
    assert objects(tmp_path / "a") == objects(tmp_path / "b") == objects(tmp_path / "c")


def test_workers_write_the_archives_whose_shards_they_finish(staged, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ARCHIVE_SHARDS", 2)
    refs = [exported["swin"], exported["resnest"]]
    average(staged, refs, tmp_path / "one")
    several = []
    for share in (2, 3, 1):
        several.append(len([name for name in objects(tmp_path / "several") if name.endswith(".tar")]))
        average(staged, refs, tmp_path / "several", "--worker", f"{share}/3", "--png-dir", str(tmp_path / "maps"))
    assert objects(tmp_path / "several") == objects(tmp_path / "one")
    assert several[0] == 0 < several[1] < several[2] < 8
    for split, num_tiles in (("val", 20), ("test", 5)):
        listed = published(tmp_path / "several").document.archives(split)
        assert len(listed) > 1 and sum(archive.num_tiles for archive in listed) == num_tiles
        assert len(label_maps(published(tmp_path / "several"), split)) == num_tiles
        assert len(list((tmp_path / "maps" / split).glob("*.png"))) == num_tiles


def test_what_another_worker_left_damaged_is_averaged_again_by_that_worker(staged, exported, tmp_path):
    refs = [exported["swin"]]
    assert average(staged, refs, tmp_path / "a", "--worker", "1/2") == 0
    (part, *_) = sorted((tmp_path / "a").rglob("parts/labels-val-*.tar"))
    part.write_bytes(b"half")
    assert average(staged, refs, tmp_path / "a", "--worker", "2/2") == 0
    assert "manifest.json" not in objects(tmp_path / "a")
    assert average(staged, refs, tmp_path / "a", "--worker", "1/2") == 0
    average(staged, refs, tmp_path / "b")
    assert objects(tmp_path / "a") == objects(tmp_path / "b")


def test_resumes_after_the_last_finished_shard(staged, exported, tmp_path):
    refs = [exported["swin"], exported["resnest"]]
    average(staged, refs, tmp_path)
    expected = objects(tmp_path)
    folder = Path(storage.parent(published(tmp_path).uri))
    parts = sorted((folder / "parts").glob("val-*.npz"))
    for path in [*folder.iterdir(), *(folder / "maps").iterdir()]:
        if path.name in expected:
            path.unlink()
    parts[0].unlink()  # killed between the label maps and the record
    parts[1].with_name(f"labels-{parts[1].stem}.tar").write_bytes(b"half")
    kept = parts[2].stat().st_mtime_ns
    damaged = bytearray(parts[3].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    parts[3].write_bytes(damaged)
    average(staged, refs, tmp_path)
    assert objects(tmp_path) == expected
    assert parts[2].stat().st_mtime_ns == kept


def test_threads_are_bounded_by_memory(staged, exported, dataset, tmp_path):
    members = open_members(list(exported.values()), None, dataset, tmp_path)
    assert affordable_threads(members, 8) == 8
    large = export(
        tmp_path / "large",
        dataset,
        "swin",
        splits=("test",),
        tiles=lambda split: [dataset.tiles(split)[0].model_copy(update={"height": 1500, "width": 1400, "label": None})],
        probs=lambda dataset, split, tile, model: np.full((9, tile.height, tile.width), 1 / 9, np.float32),
    )
    assert affordable_threads([replace(members[0], reader=ProbsReader.open(large, tmp_path))], 8) == 3


def test_an_archive_takes_its_parts_from_few_shards_at_a_time(exported, dataset, tmp_path, monkeypatch):
    ensemble = Ensemble(
        folder=str(tmp_path / "out"),
        dataset=dataset,
        members=tuple(open_members([exported["swin"]], None, dataset, tmp_path)),
        tiles={"val": dataset.index("val")},
        scratch=tmp_path,
    )
    shards = [shard for shard in ensemble.shards if shard[0] == "val"]
    for shard in shards:
        ensemble.average_shard(shard)
    monkeypatch.setattr(archives, "_PARTS_AHEAD", 1)
    get_file, on_disk = storage.get_file, []

    def watched(uri, target, **options):
        on_disk.append(len(list(tmp_path.glob("labels.tar.*"))))
        get_file(uri, target, **options)

    monkeypatch.setattr(storage, "get_file", watched)
    assert write_archive(ensemble, shards, "labels", tmp_path / "labels.tar") == 20
    assert len(on_disk) == len(shards) > 5
    assert max(on_disk) <= 1  # that which is being read, while the next is fetched
    assert not list(tmp_path.glob("labels.tar.*"))


def test_threads_are_bounded_by_the_room_for_shards(exported, dataset, tmp_path, monkeypatch):
    members = open_members(list(exported.values()), None, dataset, tmp_path)
    shard_bytes = most_shard_bytes(members[0].reader.spec, members[0].reader.manifest.largest_px())
    monkeypatch.setattr(storage, "scratch_room", lambda folder: 11 * len(members) * shard_bytes)
    assert affordable_threads(members, 8) == 8  # read in place
    remote = [replace(one, reader=replace(one.reader, uri=f"s3://b/{one.name}/manifest.json")) for one in members]
    assert affordable_threads(remote, 8) == 4
    monkeypatch.setattr(storage, "scratch_room", lambda folder: 1)
    assert affordable_threads(remote, 8) == 1
