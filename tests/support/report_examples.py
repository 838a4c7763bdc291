"""Believable contents for the reports. `python tests/support/report_examples.py DIR` writes the pages to look at."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from landseg.ensemble.tile_counts import tile_boundaries
from landseg.raw.findings import Finding
from landseg.report import data, training
from landseg.report.data import DataReport, Need, SampleTile, SplitStats
from landseg.report.ensemble import rendering
from landseg.report.ensemble.areas import ClassAreas
from landseg.report.ensemble.content import EnsembleReport, MapFile, SplitScores
from landseg.report.ensemble.costs import StageCost
from landseg.report.scores import Prediction
from landseg.report.tile_pictures import TilePicture
from landseg.report.training import Evaluation, TrainingReport
from landseg.sample.covers import CLASSES
from landseg.sample.tiles import PALETTE, SampleOptions, draw_tile
from landseg.scoring.boundary import boundary_scores
from landseg.scoring.calibration import reliability_counts
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores

# What a model takes a class for when it errs, by class id.
_CONFUSED_WITH = {0: 2, 1: 2, 2: 1, 3: 5, 4: 0, 5: 6, 6: 7, 7: 0, 8: 0}


def predict(truth, skill, rng):
    """A label map as a model might make it: wrong in blobs and along edges, into classes that look alike."""
    height, width = truth.shape
    coarse = rng.normal(size=(max(2, height // 12), max(2, width // 12))).astype(np.float32)
    blobs = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    wrong = blobs > np.quantile(blobs, skill)
    confused = np.array([_CONFUSED_WITH.get(i, i) for i in range(256)], np.uint8)
    shifted = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
    return np.where(wrong, confused[shifted], shifted).astype(np.uint8)


def tile_picture(number, names, options, rng, split="val"):
    image, truth = draw_tile(options, split, number)
    hard = rng.uniform(-0.1, 0.06)
    models = tuple(predict(truth, min(0.99, 0.84 + 0.03 * n + hard), rng) for n in range(len(names)))
    differ = np.mean([models[0] != other for other in models[1:]], axis=0) if len(names) > 1 else None
    sure = np.asarray(Image.fromarray(rng.normal(size=(5, 5)).astype(np.float32)).resize(truth.shape[::-1], 3)) > -0.6
    mixed = np.where(sure, models[-1], models[0])
    marked = truth.copy()
    marked[: number % 3 * 5] = 255
    everyone = {**dict(zip(names, models, strict=True)), "ensemble": mixed}
    per_tile = {
        name: scores(confusion_matrix(marked, pred, len(CLASSES), 255), CLASSES)["mIoU"]
        for name, pred in everyone.items()
    }
    smooth = None
    if differ is not None:
        picture = Image.fromarray((differ * 255).astype(np.uint8))
        smooth = np.asarray(picture.resize((16, 16)).resize(truth.shape[::-1], 2)) / 255 * 0.3 + differ * 0.7
    return TilePicture(
        tile_id=f"{7000 + 13 * number:05d}",
        split=split,
        image=image,
        truth=marked,
        models=models,
        ensemble=mixed.astype(np.uint8),
        disagreement=smooth,
        disagreement_share=None if differ is None else float((differ > 0).mean()),
        mIoU=per_tile,
    )


def ensemble_example(names=("swin", "resnest"), num_tiles=12, side=128, labelled=True, intervals=True):
    rng = np.random.default_rng(5)
    options = SampleOptions(train=0, val=num_tiles, size_px=side)
    tiles = [tile_picture(number, names, options, rng) for number in range(num_tiles)]

    def prediction(name, maps):
        confusion = sum(confusion_matrix(t.truth, m, len(CLASSES), 255) for t, m in zip(tiles, maps, strict=True))
        found = scores(confusion, CLASSES)
        spread = {key: (max(0.0, v - 0.012), min(1.0, v + 0.014)) for key, v in found.items()} if intervals else {}
        weight = None if name == "ensemble" else 1 / len(names)
        if not labelled:
            return Prediction(name, weight=weight)
        pairs = list(zip((tile.truth for tile in tiles), maps, strict=True))
        boundary = boundary_scores(sum(tile_boundaries([m], t, len(CLASSES))[0] for t, m in pairs), CLASSES)
        right = np.concatenate([(t == m).ravel() for t, m in pairs])
        sure = np.clip(rng.normal(np.where(right, 0.85, 0.7), 0.12), 1 / len(CLASSES), 1).astype(np.float32)
        return Prediction(
            name, found, confusion, spread, weight, reliability=reliability_counts(sure, right), boundary=boundary
        )

    models = tuple(prediction(name, [tile.models[n] for tile in tiles]) for n, name in enumerate(names))
    combined = prediction("ensemble", [tile.ensemble for tile in tiles])
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))] if len(names) > 2 else []
    subsets = tuple(
        replace(prediction(f"{names[a]}+{names[b]}", [tile.models[b] for tile in tiles]), reliability=None, boundary={})
        for a, b in pairs
    )
    gain = combined.scores["mIoU"] - max(model.scores["mIoU"] for model in models) if labelled else 0.0
    predicted = sum(np.bincount(tile.ensemble.ravel(), minlength=9) for tile in tiles)
    true = sum(np.bincount(tile.truth.ravel(), minlength=256)[:9] for tile in tiles)
    shares = [tile.disagreement_share for tile in tiles if tile.disagreement_share is not None]
    area = ClassAreas(
        "val",
        tuple(int(n) for n in predicted),
        tuple(int(n) for n in true) if labelled else None,
        1.0,
        float(np.mean(shares)) if shares else None,
        tuple(combined.confusion.sum(axis=0).tolist()) if labelled and combined.confusion is not None else None,
    )
    by_score = sorted(tiles, key=lambda tile: tile.mIoU["ensemble"])
    by_difference = sorted(tiles, key=lambda tile: -(tile.disagreement_share or 0))
    if not labelled:
        tiles_shown = [
            TilePicture(t.tile_id, "test", t.image, None, t.models, t.ensemble, t.disagreement, t.disagreement_share)
            for t in by_difference
        ]
        by_difference, by_score = tiles_shown, []
    return EnsembleReport(
        run_id="sample-2026-11-23",
        dataset="sample",
        classes=CLASSES,
        palette=PALETTE,
        models=models,
        ensemble=combined,
        num_tiles={"train": 256, "val": 64, "test": 16} if labelled else {"test": 16},
        scored_split="val" if labelled else None,
        num_scored_tiles=num_tiles if labelled else 0,
        num_units=num_tiles if labelled else 0,
        gain_interval=(gain - 0.009, gain + 0.01) if intervals and labelled and len(names) > 1 else None,
        adds={name: (gain + 0.01 * n, (gain - 0.01, gain + 0.03)) for n, name in enumerate(names)} if labelled else {},
        subsets=subsets if labelled else (),
        other_splits=(SplitScores("test", 16, 0, (*models, combined)),) if labelled and len(names) > 1 else (),
        areas=(area,),
        maps=(
            MapFile("maps/labels-val-000000.tar", "labels", "val", 64),
            MapFile("maps/entropy-val-000000.tar", "entropy", "val", 64, 3),
        ),
        disagreeing=tuple(by_difference[: max(1, num_tiles * 2 // 3)]),
        worst=tuple(by_score[: max(1, num_tiles // 3)]),
        best=tuple(by_score[::-1][: max(1, num_tiles // 3)]),
        costs=(
            StageCost("stage-data", 12.4, None, 31_000_000),
            *(
                StageCost(f"train-{name}", 8 * 3600 - 4000 * n, 57600 - 8000 * n, 970_000_000)
                for n, name in enumerate(names)
            ),
            *(StageCost(f"export-{name}", 1210.0, 1210.0, 88_000_000) for name in names),
            StageCost("average-probs", 41.0, None, 4_100_000),
        ),
        provenance={
            "Dataset": {"name": "sample", "id": "6f1e0c2b9d3a4e57", "manifest sha256": "5d" * 32},
            **{
                f"Model {name}": {
                    "checkpoint sha256": f"{n}a" * 32,
                    "epochs": 12,
                    "seed": 0,
                    "config": "model = dict(\n    type='EncoderDecoder',\n    pretrained=None)\n" * 8,
                }
                for n, name in enumerate(names)
            },
            "Parameters": {"tta": "hv", "dtype": "uint8", "weights": "equal", "splits": ["val", "test"]},
            "Versions": {"landseg": "0.1.0", "numpy": "2.4.1", "python": "3.11.9"},
        },
    )


def data_example(num_samples=12, side=128, num_problems=0):
    options = SampleOptions(train=num_samples, size_px=side)
    drawn = [draw_tile(options, "train", number) for number in range(num_samples)]
    pixels = sum(np.bincount(labels.ravel(), minlength=9) for _, labels in drawn)
    holding = sum(np.bincount(labels.ravel(), minlength=9) > 0 for _, labels in drawn)

    def split(name, tiles, labelled, factor):
        counted = tuple(int(n * f) for n, f in zip(pixels, factor, strict=True)) if labelled else ()
        held = tuple(int(n) for n in holding) if labelled else ()
        mean = tuple(float(np.mean([image[..., band] for image, _ in drawn])) for band in range(3))
        sizes = {(side, side): tiles}
        return SplitStats(
            name, tiles, labelled, tiles * 52_000, 1 + tiles // 200, counted, 812, mean, mean, held, sizes
        )

    return DataReport(
        name="sample",
        dataset_id="" if num_problems else "6f1e0c2b9d3a4e57",
        classes=CLASSES,
        palette=PALETTE,
        bands=(1, 2, 3),
        num_bands=4,
        dtype="uint8",
        splits=(
            split("train", 256, True, [1] * 9),
            split("val", 64, True, [0.8, 1.1, 1, 1.2, 0.9, 1, 0, 1.1, 1]),
            split("test", 16, False, [1] * 9),
        ),
        findings=(
            *(
                Finding(
                    f"train/labels/{number:05d}.png",
                    "label value outside the class list: 812 px with 9, 10; expected 0-8 for the 9 classes",
                    "fix the label, or classes, label_offset and ignore_index in dataset.yaml",
                    "warning" if number % 3 == 2 else "error",
                )
                for number in range(num_problems)
            ),
            Finding("", "Class dig does not occur in val: its IoU cannot be measured.", severity="warning"),
        ),
        needs=(
            Need("train", "images per epoch", "256"),
            Need("export-probs", "storage per model", "12 MB"),
        ),
        samples=tuple(
            SampleTile(f"{number:05d}", "train", image, labels) for number, (image, labels) in enumerate(drawn)
        ),
        seconds=12.4,
        provenance={"Source": {"uri": "s3://tiles/sample"}, "Versions": {"landseg": "0.1.0"}},
    )


def training_example(num_points=1200, epochs=12, evaluated=True):
    rng = np.random.default_rng(2)
    at = np.linspace(0, 1, num_points)
    decode = 1.9 * np.exp(-4 * at) + 0.35 + rng.gamma(2, 0.05, num_points)
    auxiliary = 0.4 * (1.7 * np.exp(-3 * at) + 0.45 + rng.gamma(2, 0.06, num_points))
    found = [
        {
            "mIoU": 0.68 * (1 - np.exp(-epoch / 3)) + rng.normal() * 0.008,
            "mAcc": 0.79 * (1 - np.exp(-epoch / 2.5)),
            "aAcc": 0.86 * (1 - np.exp(-epoch / 1.5)),
            **{f"IoU.{name}": (0.45 + 0.05 * n) * (1 - np.exp(-epoch / 3)) for n, name in enumerate(CLASSES)},
        }
        for epoch in range(1, epochs + 1)
    ]
    return TrainingReport(
        name="swin",
        config_name="swin",
        run_id="sample-2026-11-23",
        dataset="sample",
        classes=CLASSES,
        palette=PALETTE,
        iterations=[50 * (n + 1) for n in range(num_points)],
        losses={"loss": decode + auxiliary, "decode.loss_ce": decode, "aux.loss_ce": auxiliary},
        lr=6e-5 * np.minimum(1, at / 0.03) * (1 - at),
        evaluations=tuple(
            Evaluation(n + 1, 50 * num_points // epochs * (n + 1), values) for n, values in enumerate(found)
        )
        if evaluated
        else (),
        train_pixels=(12, 40, 31, 8, 9, 4, 2, 20, 15),
        num_parameters=121_300_000,
        images_per_s=14.2,
        seconds=8.1 * 3600,
        num_gpus=2,
        peak_memory_bytes=19_400_000_000,
        size_bytes=485_000_000,
        config="model = dict(\n    type='EncoderDecoder',\n    pretrained=None)\n" * 40,
        provenance={"Environment": {"gpu": "NVIDIA A10G", "python": "3.11.9"}, "Parameters": {"seed": 0}},
    )


def main(directory):
    directory.mkdir(parents=True, exist_ok=True)
    pages = {
        "ensemble": rendering.render(ensemble_example()),
        "ensemble-single": rendering.render(ensemble_example(names=("swin",), num_tiles=3, intervals=False)),
        "ensemble-five": rendering.render(ensemble_example(names=("swin", "resnest", "third", "fourth", "fifth"))),
        "data": data.render(data_example()),
        "data-bad": data.render(data_example(num_problems=9)),
        "training": training.render(training_example()),
        "training-unscored": training.render(training_example(evaluated=False)),
        "ensemble-unlabelled": rendering.render(ensemble_example(labelled=False)),
    }
    for name, page in pages.items():
        (directory / f"{name}.html").write_text(page, encoding="utf-8")
        print(f"{name}: {len(page.encode()):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
