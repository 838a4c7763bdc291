"""Two million tiles through whatever reads lists of tiles: documents stay small, and so does memory."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NUM_TILES = 2_000_000
MEMORY_BYTES_PER_TILE = 150

READERS = """
import re, sys
from pathlib import Path
from landseg import storage
from landseg.contracts.dataset import SplitInfo
from landseg.contracts.probabilities import ProbsManifest, ProbsShard, ProbsSpec, tiles_digest
from landseg.dataset.index import TileIndex
from landseg.probabilities.layout import plan_shards, share_cuts, tiles_in_order
from landseg.probabilities.shard_index import write_index
from landseg.probabilities.reader import ProbsReader

folder, num_tiles = Path(sys.argv[1]), int(sys.argv[2])
DIGEST = "0" * 64


def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])


before = peak()
info = SplitInfo.model_validate_json((folder / "split.json").read_text())
index = TileIndex(folder / "tiles.jsonl", "tiles.jsonl", info)
last = index.table.id(num_tiles - 1)
assert (len(index), index.find(last).id) == (num_tiles, last)
plan = plan_shards("val", index.table, 9)
cuts = share_cuts(plan, 64)
assert max(b - a for a, b in zip(cuts, cuts[1:])) < 1.3 * len(plan) / 64
spec = ProbsSpec(
    model="swin", model_sha256=DIGEST, checkpoint_sha256=DIGEST, dataset_id="0" * 16, dataset_sha256=DIGEST,
    classes=tuple("abcdefghi"), dtype="companded", tta="none", precision="fp32",
)
shards = (
    ProbsShard(
        path=one.path, size_bytes=1 << 24, sha256=DIGEST, canvas=one.canvas, capacity=one.capacity, tiles=one.tiles
    )
    for one in plan
)
split = write_index(str(folder), "val", shards)
loaded = storage.publish_manifest(str(folder / "manifest.json"), ProbsManifest(spec=spec, splits={"val": split}))
assert len(loaded.document.to_bytes()) < 100_000
reader = ProbsReader.open(loaded.uri, folder)
assert (reader.manifest.num_tiles("val"), len(reader.index("val"))) == (num_tiles, len(plan))
assert reader.index("val").tiles_sha256 == tiles_digest(tiles_in_order(plan))
assert reader.index("val")[len(plan) // 2].tiles == plan[len(plan) // 2].tiles
assert reader.index("val").place(last) == (len(plan) - 1, len(plan[-1].tiles) - 1)
assert sum(1 for _ in storage.listed(loaded.document, str(folder))) == len(split.index) + len(plan)
print((peak() - before) / num_tiles)
"""


def read_all(folder: Path, num_tiles: int) -> float:
    """Write a split's index, and read it and the probabilities of it; returns bytes of memory per tile."""
    per_shard, span = 200, 800_000
    digest = hashlib.sha256(b"").hexdigest()
    with (folder / "tiles.jsonl").open("w") as file:
        for number in range(num_tiles):
            at = number % per_shard * span
            row = {"id": f"region_{number:08}", "shard": number // per_shard, "image": [at + 512, 786_432]}
            row |= {"label": [at + 788_000, 8_000], "height": 512, "width": 512}
            row |= {"image_sha256": digest, "label_sha256": digest, "band_sums": [1, 2, 3], "band_squares": [4, 5, 6]}
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
    shard = {"path": "../shards/a.tar", "size_bytes": per_shard * span, "sha256": digest, "num_tiles": per_shard}
    info = {
        "num_tiles": num_tiles,
        "labelled": True,
        "shards": [shard] * -(-num_tiles // per_shard),
        "index": {"path": "tiles.jsonl", "size_bytes": (folder / "tiles.jsonl").stat().st_size, "sha256": digest},
        "class_pixels": [],
        "ignored_pixels": 0,
        "band_mean": [],
        "band_std": [],
    }
    (folder / "split.json").write_text(json.dumps(info))
    program = re.sub(r"\n+", "\n", READERS)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(num_tiles)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_twenty_thousand_tiles_are_read(tmp_path):
    read_all(tmp_path, 20_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_million_tiles_are_read_in_little_memory(tmp_path):
    assert read_all(tmp_path, NUM_TILES) <= MEMORY_BYTES_PER_TILE
