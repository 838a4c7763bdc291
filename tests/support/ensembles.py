"""A small staged dataset and made-up models on it."""

import json
import re

import numpy as np

from landseg.cli.main import main
from landseg.contracts.documents import sha256_hex
from landseg.contracts.probabilities import ProbsSpec
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.probabilities.writer import ProbsWriter


def stage(root, **options):
    """Draw and stage sample tiles; returns the reference's path."""
    options = {"train": 0, "val": 20, "test": 5, "size": 48, **options}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    assert main(["make-sample-data", str(root / "raw"), *flags]) == 0
    assert (
        main(["stage-data", "--source", str(root / "raw"), "--storage-uri", str(root), "--output-dir", str(root)]) == 0
    )
    return str(root / "dataset.json")


def stage_and_export(root, **options):
    """Draw and stage sample tiles, and export two models; returns the references to the dataset and to both."""
    reference = stage(root, **options)
    dataset = open_dataset(reference, root)
    return reference, [export(root / name, dataset, name) for name in ("swin", "resnest")]


def published_objects(folder):
    """What a run has published, by path below `folder`, apart from what depends on time.

    That is: the records of costs, the section of the report that shows them, and the report's checksum in the manifest.
    """
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if not path.is_file() or {"costs", "costs.json"} & {*path.parts} or path.suffix == ".partial":
            continue
        data = path.read_bytes()
        if path.name == "report.html":
            data = re.sub(rb'<section id="cost".*?</section>', b"", data, flags=re.S)
        if path.name == "manifest.json":
            manifest = json.loads(data)
            data = json.dumps({key: value for key, value in manifest.items() if key != "report"}).encode()
        found[name] = data
    return found


def open_dataset(ref, tmp_path):
    return StagedDataset.open(ref, tmp_path / "cache")


def made_up_probs(dataset, split, tile, model, skill=2.0):
    """Probabilities that favour the truth, if there is one, by `skill`."""
    rng = np.random.default_rng([int(tile.id), *model.encode()])
    num_classes = dataset.schema.num_classes
    coarse = rng.normal(size=(num_classes, -(-tile.height // 4), -(-tile.width // 4)))
    logits = 2 * np.kron(coarse, np.ones((1, 4, 4)))[:, : tile.height, : tile.width]
    if tile.label is not None:
        logits += skill * (dataset.read_label(split, tile) == np.arange(num_classes)[:, None, None])
    raised = np.exp(logits)
    return (raised / raised.sum(axis=0)).astype(np.float32)


def write_index(path, split, tiles):
    """An index of tiles, as a dataset has one of each split."""
    path.write_text("".join(tile.model_dump_json() + "\n" for tile in tiles))
    return TileIndex(path, str(path), split)


def make_spec(dataset, model, **changes):
    values = {
        "model": model,
        "model_sha256": sha256_hex(b"model " + model.encode()),
        "checkpoint_sha256": sha256_hex(b"checkpoint " + model.encode()),
        "dataset_id": dataset.manifest.dataset_id,
        "dataset_sha256": dataset.sha256,
        "classes": dataset.schema.classes,
        "dtype": "companded",
        "tta": "none",
        "precision": "fp32",
    }
    return ProbsSpec(**{**values, **changes})


def made_up_views(dataset, split, tile, model):
    """The views original, horizontal and vertical of a made-up model, and their mean as `--tta hv` weighs them."""
    views = [made_up_probs(dataset, split, tile, f"{model}{view}") for view in range(3)]
    return np.float32(0.5) * views[0] + np.float32(0.25) * views[1] + np.float32(0.25) * views[2], views


def export(folder, dataset, model, splits=("val", "test"), tiles=None, probs=made_up_probs, **changes):
    """Write a made-up model's probabilities; returns the manifest's URI."""
    by_split = {split: tiles(split) if tiles else dataset.tiles(split) for split in splits}
    lookup = {tile.id: (split, tile) for split, members in by_split.items() for tile in members}
    writer = ProbsWriter(str(folder), make_spec(dataset, model, **changes), by_split)
    for plan in writer.pending():
        builder = writer.shard(plan)
        for stored in plan.tiles:
            if "views" in changes:
                builder.add(stored.id, *made_up_views(dataset, *lookup[stored.id], model))
            else:
                builder.add(stored.id, probs(dataset, *lookup[stored.id], model))
        builder.close()
    return writer.publish().uri
