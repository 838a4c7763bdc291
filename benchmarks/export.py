"""export-probs against a plain mmsegmentation program: images/s of the full-size models, three views, 512 px.

The peer is the program people write: mmseg's own test pipeline, `model.inference` for one view after the other in
float32, a mean, a float32 `.npy`. MultiScaleFlipAug makes the original twice when it flips in two directions; the
peer is spared that in the ratio, and `ratio_stock` is against the program as it is. Ours is
`landseg.prediction.export` with the stage's defaults: decoding, the views, encoding and writing. Neither side's model
loading counts. The weights of these models are random, for only the amount of work matters; how far the labels agree is
measured on trained ones.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

import landseg.models  # noqa: F401  # makes mmcv importable
from benchmarks import machine, trained
from benchmarks.fields import made_up_spec
from landseg import storage
from landseg.dataset.reader import StagedDataset
from landseg.models.build import build_model, fit_config, load_config, load_model, parse_config
from landseg.models.trained_model import open_model
from landseg.prediction.device import default_device, resolve_precision
from landseg.prediction.export import export
from landseg.prediction.loading import final_predictor
from landseg.prediction.predictor import Predictor
from landseg.probabilities.codec import DTYPES, default_dtype, dequantize
from landseg.probabilities.writer import ProbsWriter
from landseg.raw.processes import num_cpus
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores

# isort: split
from mmseg.datasets.pipelines import Compose

MODELS = ("swin", "resnest")
NUM_TILES = 1
"""In a repetition; more would be the same again."""
BATCH_SIZE = 4
REPEATED_VIEW = 1
"""The second original among MultiScaleFlipAug's four."""


@dataclass
class Cost:
    """Seconds that something took: of the clock, and of all processors together."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __enter__(self) -> Self:
        self.wall_s -= time.perf_counter()
        self.cpu_s -= time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.wall_s += time.perf_counter()
        self.cpu_s += time.process_time()


def unknown_case(only: str) -> str:
    """What `--only` should be, in an error line; empty where it is that."""
    return "" if only == "speed" else "expected speed"


def run(repeats: int = 3, only: str | None = None) -> dict[str, Any]:
    """Measure; with `only` = speed without the labels' agreement, for which two models have to be trained first."""
    dataset = trained.open_dataset()
    speed = {name: _speed(name, dataset, repeats) for name in MODELS}

    # Both models' work on an image, one after the other, as the pipeline does it.
    def rate(side: str) -> float:
        return 1 / sum(speed[name][side]["wall_s"] for name in MODELS)

    def cpu_s(side: str) -> float:
        return sum(speed[name][side]["cpu_s"] for name in MODELS)

    return {
        "what": f"full-size {' and '.join(MODELS)} on an image, 3 views, {trained.SIZE_PX} px; "
        "peer: plain mmseg into float32 .npy",
        "ours": round(rate("ours"), 4),
        "peer": round(rate("peer"), 4),
        "ratio": round(rate("ours") / rate("peer"), 2),
        "unit": "images/s",
        "target": 2 if torch.cuda.is_available() else 2.2,
        "ratio_stock": round(rate("ours") / rate("stock"), 2),
        "ratio_of_cpu_seconds": round(cpu_s("peer") / cpu_s("ours"), 2),
        "precision": resolve_precision("auto"),
        "dtype": default_dtype(dataset.schema.num_classes),
        "repeats": repeats,
        "seconds_per_image": speed,
        "trained": None if only == "speed" else _agreement(dataset),
        "label_agreement_target": 0.999,
        "load_average": os.getloadavg()[0],
        "machine": machine.describe(),
    }


def _speed(name: str, dataset: StagedDataset, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of seconds per image of a full-size model: ours, the peer's, and the stock program's, in turn."""
    torch.manual_seed(0)
    config = fit_config(load_config(name), dataset.schema)
    model: Any = build_model(config, dataset.schema).eval().to(default_device())
    twin = build_model(config, dataset.schema)
    twin.load_state_dict(model.state_dict())
    norm = config.img_norm_cfg
    precision = resolve_precision("auto")
    predict = final_predictor(twin, config, norm.mean, norm.std, tta="hv", precision=precision)
    spec = made_up_spec(dataset, name, tta="hv", precision=precision)
    paths, tiles = trained.images(dataset)[:NUM_TILES], dataset.tiles("val")[:NUM_TILES]
    found: dict[str, list[Cost]] = {"ours": [], "peer": [], "stock": []}
    with tempfile.TemporaryDirectory(prefix="landseg-bench-") as folder:
        _warm_up(model, predict, dataset)
        for repeat in range(repeats):
            stock, again = Cost(), Cost()
            with stock:
                for path in paths:
                    np.save(Path(folder) / f"{path.stem}.npy", plain_mmseg(model, config, path, again))
            ours = Cost()
            writer = ProbsWriter(f"{folder}/probs{repeat}", spec, {"val": tiles})
            with ours:
                export_all(predict, dataset, writer, BATCH_SIZE)
            peer = Cost(stock.wall_s - again.wall_s, stock.cpu_s - again.cpu_s)
            for side, cost in (("ours", ours), ("peer", peer), ("stock", stock)):
                found[side].append(cost)
    return {
        side: {
            key: round(statistics.median(getattr(cost, key) for cost in costs) / NUM_TILES, 3)
            for key in ("wall_s", "cpu_s")
        }
        for side, costs in found.items()
    }


def _warm_up(model: Any, predict: Predictor, dataset: StagedDataset) -> None:
    """Whatever is made at the first pass, of either."""
    planes = predict.prepare(dataset.read_image("val", dataset.tiles("val")[0]))
    predict([planes], (trained.SIZE_PX, trained.SIZE_PX))
    with torch.no_grad():
        model.encode_decode(torch.from_numpy(planes[0])[None].to(default_device()), None)


def export_all(predict: Predictor, dataset: StagedDataset, writer: ProbsWriter, batch_size: int) -> None:
    """Export every shard, with a thread for each CPU."""
    export(
        predict,
        dataset,
        writer,
        writer.plan,
        batch_size=batch_size,
        num_threads=num_cpus(),
        advance=lambda count: None,
    )


def plain_mmseg(model: Any, config: Any, path: Path, again: Cost) -> Any:
    """Probabilities of a tile, as (C, H, W) float32; adds to `again` what computing the original again took."""
    data = Compose(config.data.test.pipeline)({"img_info": {"filename": str(path)}, "img_prefix": None})
    total: Any = 0
    with torch.no_grad():
        for view, (image, meta) in enumerate(zip(data["img"], data["img_metas"], strict=True)):
            with again if view == REPEATED_VIEW else Cost():
                total = total + model.inference(image[None].to(default_device()), [meta.data], True)
    return (total / len(data["img"]))[0].cpu().numpy()


def _agreement(dataset: StagedDataset) -> dict[str, Any]:
    """Labels of trained models: our stored probabilities against the peer's float32, per model and averaged."""
    tiles = dataset.tiles("val")
    sums: dict[str, list[Any]] = {"ours": [0] * len(tiles), "peer": [0] * len(tiles)}
    result: dict[str, Any] = {}
    for name in trained.MODELS:
        ref = trained.train(name)
        reader = trained.export(name, dataset)
        with tempfile.TemporaryDirectory(prefix="landseg-bench-") as folder:
            found = open_model(ref, Path(folder))
            checkpoint = Path(folder) / "model.pth"
            storage.get_file(found.checkpoint_uri, checkpoint, sha256=found.checkpoint_sha256)
            config = parse_config(found.config, found.uri)
            model = load_model(config, dataset.schema, checkpoint).to(default_device())
        same = 0
        for i, (tile, path) in enumerate(zip(tiles, trained.images(dataset), strict=True)):
            expected = plain_mmseg(model, config, path, Cost())
            stored = dequantize(reader.read_tile("val", tile.id), DTYPES[reader.spec.dtype])
            same += int(np.count_nonzero(expected.argmax(0) == stored.argmax(0)))
            sums["ours"][i], sums["peer"][i] = sums["ours"][i] + stored, sums["peer"][i] + expected
        result[name] = {"label_agreement": round(same / (len(tiles) * trained.SIZE_PX**2), 6)}
    truths = [dataset.read_label("val", tile) for tile in tiles]
    labels = {side: [total.argmax(0).astype(np.uint8) for total in totals] for side, totals in sums.items()}
    same = sum(int(np.count_nonzero(a == b)) for a, b in zip(labels["ours"], labels["peer"], strict=True))
    result["ensemble"] = {
        "label_agreement": round(same / (len(tiles) * trained.SIZE_PX**2), 6),
        **{f"mIoU_{side}": round(_miou(truths, predicted, dataset), 5) for side, predicted in labels.items()},
    }
    return result


def _miou(truths: list[Any], predicted: list[Any], dataset: StagedDataset) -> float:
    schema = dataset.schema
    confusion = np.zeros((schema.num_classes, schema.num_classes), np.int64)
    for truth, labels in zip(truths, predicted, strict=True):
        confusion += confusion_matrix(truth, labels, schema.num_classes, schema.ignore_index)
    return scores(confusion, schema.classes)["mIoU"]
