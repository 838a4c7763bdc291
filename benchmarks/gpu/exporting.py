"""Export of three views, compared with the forward passes alone and with a plain mmsegmentation program."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.export import Cost, export_all, plain_mmseg
from benchmarks.fields import made_up_spec
from benchmarks.gpu.plan import Plan, peak_gib, synchronize
from landseg import storage
from landseg.dataset.reader import StagedDataset
from landseg.models.build import load_model, parse_config
from landseg.models.trained_model import TrainedModel, open_model
from landseg.prediction.device import resolve_precision
from landseg.prediction.loading import load_predictor
from landseg.prediction.predictor import Predictor
from landseg.probabilities.codec import DTYPES, default_dtype, dequantize
from landseg.probabilities.reader import ProbsReader
from landseg.probabilities.writer import ProbsWriter

_REPEATS = 2
_PLAIN_TILES = 48


def compare(plan: Plan, model: str) -> dict[str, Any]:
    """Tiles per second of the export, of the forward passes alone and of the plain program; labels that agree."""
    plan.read(f"train-{model}")
    dataset = StagedDataset.open(plan.dataset("large"), plan.folder / "cache")
    tiles = dataset.tiles("val")
    scratch = plan.folder / "export" / model
    scratch.mkdir(parents=True, exist_ok=True)
    trained = open_model(str(plan.folder / "trained" / model / "model.json"), scratch, "")
    checkpoint = scratch / "model.pth"
    storage.get_file(trained.checkpoint_uri, checkpoint, sha256=trained.checkpoint_sha256)
    choice = resolve_precision("auto", trained.precision)
    predict = load_predictor(trained, dataset.schema, checkpoint, tta="hv", precision=choice)
    batch_size = 16 if plan.on_gpu else 2
    alone = _forward_alone(plan, predict, dataset, batch_size)
    spec = made_up_spec(dataset, trained.name, tta="hv", precision=choice)
    ours = []
    for repeat in range(_REPEATS if plan.on_gpu else 1):
        writer = ProbsWriter(str(scratch / f"probs-{repeat}"), spec, {"val": tiles})
        start = time.perf_counter()
        export_all(predict, dataset, writer, batch_size)
        ours.append(len(tiles) / (time.perf_counter() - start))
    peak = peak_gib(plan.device)
    writer.publish()
    plain, same = _plain(plan, trained, dataset, checkpoint, writer.folder)
    return {
        "tiles_per_s": round(max(ours), 2),
        "forward_alone": round(alone, 2),
        "share_of_forward_alone": round(max(ours) / alone, 3),
        "plain_mmseg": round(plain, 2),
        "ratio_to_plain": round(max(ours) / plain, 2),
        "label_agreement": round(same, 6),
        "precision": choice,
        "dtype": default_dtype(dataset.schema.num_classes),
        "batch_size": batch_size,
        "peak_gib": peak,
    }


def _forward_alone(plan: Plan, predict: Predictor, dataset: StagedDataset, batch_size: int) -> float:
    """Tiles per second of the views of one batch, again and again; nothing leaves the device."""
    tiles = (dataset.tiles("val") * batch_size)[:batch_size]
    batch = [predict.prepare(dataset.read_image("val", tile)) for tile in tiles]
    size = (plan.size_px, plan.size_px)
    for _ in range(2):
        predict.on_device(batch, size)
    synchronize(plan.device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < (2.5 if plan.on_gpu else 0.3):
        predict.on_device(batch, size)
        synchronize(plan.device)
        count += len(batch)
    return count / (time.perf_counter() - start)


def _plain(
    plan: Plan, trained: TrainedModel, dataset: StagedDataset, checkpoint: Path, folder: str
) -> tuple[float, float]:
    """Tiles per second of the plain program, three views in fp32; the share of labels that our export shares."""
    config = parse_config(trained.config, trained.uri)
    model = load_model(config, dataset.schema, checkpoint).to(plan.device)
    reader = ProbsReader.open(f"{folder}/manifest.json", plan.folder / "cache")
    raw = plan.folder / "data" / "large" / "raw" / "val" / "images"
    seconds, same = [], 0
    tiles = dataset.tiles("val")[:_PLAIN_TILES]
    for tile in tiles:
        whole, again = Cost(), Cost()
        with whole:
            expected = plain_mmseg(model, config, raw / f"{tile.id}.tif", again)
            np.save(plan.folder / "plain.npy", expected)
        seconds.append(whole.wall_s - again.wall_s)
        stored = dequantize(reader.read_tile("val", tile.id), DTYPES[reader.spec.dtype])
        same += int(np.count_nonzero(expected.argmax(0) == stored.argmax(0)))
    (plan.folder / "plain.npy").unlink()
    return 1 / float(np.median(seconds)), same / (len(tiles) * plan.size_px**2)
