"""Killed at random, stages resume and end with the same bytes; memory does not grow with the number of tiles."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ensembles import export, open_dataset, published_objects, stage
from peak_memory import peak_of_verb

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
EXPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ensembles import export, open_dataset, published_objects
folder, staged, cache = sys.argv[2:]
export(folder, open_dataset(staged, Path(cache)), "swin")
"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("staged"), val=60, test=20, size=64)


def run_killed(command, folder, rng, most_objects=12):
    """Run the command over and over, killed after a random number of new objects, until it ends on its own.

    Returns:
        The number of kills.
    """
    kills = 0
    while True:
        limit = count_files(folder) + rng.randint(1, most_objects)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and count_files(folder) < limit:
            time.sleep(rng.uniform(0, 0.01))
        if process.poll() is not None:
            assert process.returncode == 0
            return kills
        process.kill()
        process.wait()
        kills += 1


def count_files(folder):
    return sum(1 for path in folder.rglob("*") if path.is_file())


def test_a_writer_killed_at_random_writes_the_same_bytes(staged, tmp_path):
    rng = random.Random(0)
    command = [sys.executable, "-c", EXPORT, str(SUPPORT)]
    where = [staged, str(tmp_path / "cache")]
    subprocess.run([*command, str(tmp_path / "calm"), *where], check=True)
    assert run_killed([*command, str(tmp_path / "killed"), *where], tmp_path / "killed", rng)
    assert published_objects(tmp_path / "killed") == published_objects(tmp_path / "calm")


@pytest.mark.parametrize("flags", [(), ("--weights", "auto", "--layers", "entropy")], ids=["equal", "auto"])
def test_an_average_killed_at_random_ends_with_the_same_bytes(staged, tmp_path, flags):
    rng = random.Random(1)
    dataset = open_dataset(staged, tmp_path)
    refs = [export(tmp_path / model, dataset, model) for model in ("swin", "resnest")]
    common = ["--dataset", staged, "--probs", ",".join(refs), "--run-id", "r", *flags]
    command = [sys.executable, "-m", "landseg", "average-probs", *common, "--storage-uri"]
    subprocess.run([*command, str(tmp_path / "calm")], check=True, capture_output=True)
    assert run_killed([*command, str(tmp_path / "killed")], tmp_path / "killed", rng)
    assert published_objects(tmp_path / "killed") == published_objects(tmp_path / "calm")


def test_shares_killed_at_random_end_with_the_same_bytes(staged, tmp_path):
    rng = random.Random(2)
    dataset = open_dataset(staged, tmp_path)
    ref = export(tmp_path / "swin", dataset, "swin")
    command = [sys.executable, "-m", "landseg", "average-probs", "--dataset", staged, "--probs", ref, "--run-id", "r"]
    subprocess.run([*command, "--storage-uri", str(tmp_path / "one")], check=True, capture_output=True)
    several = [*command, "--storage-uri", str(tmp_path / "several"), "--worker"]
    for share in (2, 3, 1):
        run_killed([*several, f"{share}/3"], tmp_path / "several", rng, most_objects=6)
    assert published_objects(tmp_path / "several") == published_objects(tmp_path / "one")


def peak_of_averaging(root, staged, refs, num_threads):
    common = ["--storage-uri", str(root), "--run-id", "r", "--num-workers", str(num_threads)]
    return peak_of_verb(["average-probs", "--dataset", staged, "--probs", ",".join(refs), *common])


def test_memory_does_not_grow_with_the_number_of_tiles(tmp_path):
    peaks = []
    for num_tiles in (40, 400):
        root = tmp_path / str(num_tiles)
        root.mkdir()
        staged = stage(root, val=0, test=num_tiles, size=128)
        dataset = open_dataset(staged, root)
        refs = [export(root / model, dataset, model, splits=("test",)) for model in ("swin", "resnest")]
        peaks.append(peak_of_averaging(root, staged, refs, 2))
    assert peaks[1] <= 1.1 * peaks[0], peaks


def test_memory_stays_below_a_gibibyte_with_large_tiles_many_models_and_threads(tmp_path):
    staged = stage(tmp_path, val=4, test=12, size=1024)
    dataset = open_dataset(staged, tmp_path)

    def flat(dataset, split, tile, model):
        return np.full((dataset.schema.num_classes, tile.height, tile.width), 1 / 9, np.float32)

    names = ("swin", "resnest", "third")
    refs = [export(tmp_path / name, dataset, name, probs=flat, dtype="float32") for name in names]
    assert peak_of_averaging(tmp_path, staged, refs, 32) <= 1 << 30
