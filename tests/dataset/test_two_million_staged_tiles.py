"""Two million tiles through whatever staging reads them with: the source's listing, the dataset before, the review."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NUM_TILES = 2_000_000
MEMORY_BYTES_PER_TILE = 150
_DIGEST = "0" * 64

READERS = """
import re, sys
from itertools import pairwise
from pathlib import Path

from landseg import storage
from landseg.contracts.dataset import DatasetManifest, SplitInfo
from landseg.dataset.index import TileIndex
from landseg.dataset.staging.checksums import SplitChecksums
from landseg.dataset.staging.previous import Previous
from landseg.dataset.staging.publishing import SplitIndex
from landseg.dataset.staging.review.review import Review
from landseg.dataset.staging.workspace import Workspace
from landseg.raw.config.rules import SceneRule
from landseg.raw.layout.listing import RawDataset
from landseg.raw.sources.source import FolderSource
from landseg.raw.sources.source_file import SourceFile, sorted_files
from landseg.stages.shared.heap import return_large_blocks

folder, num_tiles = Path(sys.argv[1]), int(sys.argv[2])


def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])


def image(number):
    return f"{number:015x}" + "0" * 49


class Listed(FolderSource):
    def files(self):
        config = SourceFile("dataset.yaml", (folder / "dataset.yaml").stat().st_size)
        names = (f"region_{(number * 7919) % num_tiles:08}" for number in range(num_tiles))  # as a folder lists them
        files = (
            SourceFile(f"val/{role}/{name}.{suffix}", size, version=hash(name + role) >> 4)
            for name in names
            for role, suffix, size in (("images", "tif", 786_568), ("labels", "png", 8_000))
        )
        return sorted_files(file for some in ([config], files) for file in some)


return_large_blocks()  # as stage-data does
before = peak()
raw = RawDataset.open(Listed(str(folder)))
tiles = raw.pairing.tiles["val"]
last = f"region_{num_tiles - 1:08}"
assert (len(tiles), tiles[num_tiles - 1].id, tiles[0].label.path) == (
    num_tiles, last, "val/labels/region_00000000.png"
)
listed = peak()

info = SplitInfo.model_validate_json((folder / "split.json").read_text())
index = TileIndex(folder / "tiles.jsonl", "tiles.jsonl", info)
manifest = DatasetManifest.model_construct(splits={"val": info}, crs=())
previous = Previous(storage.Loaded("", "", manifest), {"val": index})
checksums = SplitChecksums(tiles, folder)
changed = set(range(0, num_tiles, 100))
for number, tile in enumerate(tiles):
    checksums.put(tile.id, ("1" * 64 if number in changed else image(number), "0" * 64))
kept = previous.kept("val", checksums, 1, Workspace(str(folder), folder), scene_rule=SceneRule())
review = Review()
with SplitIndex(folder / "new.jsonl", labelled=True) as new:
    for tile in kept.adopted():
        new.add(tile)
        review.add("val", tile, 255)
    for number in changed:
        assert not kept.is_adopted(tiles[number].id)
        assert kept.find_source(tiles[number].id, (image(number), "0" * 64)) is not None
        new.add(index.row(number))
        review.add("val", index.row(number), 255)
new.sort()
assert new.num_tiles == num_tiles
with new.path.open() as file:
    assert all(a < b for a, b in pairwise(line[:25] for line in file))
assert [len(alike.pairs()[0]) for alike in (review._images, review._values)] == [0, 0]
print((listed - before) / num_tiles, (peak() - before) / num_tiles)
"""


def read_all(folder: Path, num_tiles: int) -> list[float]:
    """List a source, and stage it again where 1 % has changed; returns bytes of memory per tile."""
    per_shard, span = 200, 800_000
    with (folder / "tiles.jsonl").open("w") as file:
        for number in range(num_tiles):
            at = number % per_shard * span
            row = {"id": f"region_{number:08}", "shard": number // per_shard, "image": [at + 512, 786_432]}
            row |= {
                "label": [at + 788_000, 8_000],
                "height": 512,
                "width": 512,
                "image_sha256": f"{number:015x}{_DIGEST[15:]}",
            }
            row |= {"label_sha256": _DIGEST}
            row |= {"band_sums": [10, 20 + number], "band_squares": [411, 522 + 3 * number]}
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
    shard = {"path": "../shards/a.tar", "size_bytes": per_shard * span, "sha256": _DIGEST, "num_tiles": per_shard}
    info = {
        "num_tiles": num_tiles,
        "labelled": True,
        "shards": [shard] * -(-num_tiles // per_shard),
        "index": {"path": "tiles.jsonl", "size_bytes": 1, "sha256": _DIGEST},
        "class_pixels": [],
        "ignored_pixels": 0,
        "band_mean": [],
        "band_std": [],
    }
    (folder / "split.json").write_text(json.dumps(info))
    (folder / "dataset.yaml").write_text("version: 1\nname: many\nclasses: [land, water, wood]\n")
    program = re.sub(r"\n+", "\n", READERS)
    command = [sys.executable, "-c", program, str(folder), str(num_tiles)]
    return [
        float(figure) for figure in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ]


def test_a_few_thousand_tiles_are_staged_again(tmp_path):
    read_all(tmp_path, 5_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_million_tiles_are_staged_again_in_little_memory(tmp_path):
    assert max(read_all(tmp_path, NUM_TILES)) <= MEMORY_BYTES_PER_TILE
