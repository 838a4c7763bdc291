"""The data report of a staging: what :mod:`landseg.dataset.staging.staging` found, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from landseg import __version__, storage
from landseg.contracts.dataset import ClassSchema, DatasetManifest
from landseg.contracts.tile import Tile
from landseg.dataset.staging.result import Options, StagingResult
from landseg.dataset.stored_values import to_class_ids, to_model_range
from landseg.probabilities.codec import default_dtype
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.images.values import Kind
from landseg.raw.tiff.decoding import decode_image, decode_label
from landseg.report.data import DataReport, Need, SampleTile, SplitStats
from landseg.report.pictures import shrink

_MOST_PROBLEMS = 10_000
"""In the JSON, which programs read whole; the page shows fewer."""
_BATCH = 16
"""Images per step of the recipe: 8 on each of 2 GPUs."""
_PROBS_BYTES_PER_PX = (1.5, 6.0)
"""Bytes per pixel of stored probabilities (companded, the default): of sharp models, and of barely trained ones.

Measured: with 9 classes 2.3-3.5 for trained models (ADR 0008), 5.5 for a tiny one after 120 steps; 1.6 and 4.0 with 3.
"""
_MANY_PROBS_BYTES_PER_PX = (7.0, 1.1)
"""Likewise of more classes, which are stored as uint16: of sharp models, and of barely trained ones for each class (ADR
0018)."""


def data_report(result: StagingResult, source: str, options: Options, seconds: float) -> DataReport:
    """Everything that staging found."""
    manifest = result.loaded.document if result.loaded else None
    config, kind = result.config, result.kind
    schema = manifest.class_schema if manifest else _unpublished_schema(config, kind)
    return DataReport(
        name=config.name,
        dataset_id=manifest.dataset_id if manifest else "",
        classes=config.classes,
        palette=config.class_palette,
        bands=schema.bands,
        num_bands=kind.num_bands if kind else 0,
        dtype=kind.dtype if kind else "unknown",
        splits=tuple(_splits(result, schema)),
        findings=tuple(_findings(result, schema)),
        needs=tuple(needs(manifest, result)) if manifest else (),
        samples=tuple(_samples(result, schema)),
        seconds=seconds,
        provenance={
            "input": {"source": source, "manifest": result.loaded.uri if result.loaded else "none"},
            "parameters": {
                "shard bytes": options.shard_bytes,
                "on bad tile": options.on_bad_tile,
                "max bad": options.max_bad,
                "scale": _scale(schema, manifest),
            },
            "versions": {"landseg": __version__},
        },
    )


def _scale(schema: ClassSchema, manifest: DatasetManifest | None) -> str:
    """Which of the images' values a model sees as 0 and 255."""
    scale, source = schema.scale, manifest.source_values if manifest else None
    if scale is None:
        return "as stored"
    scale = source.source_scale(scale, schema.bands) if source else scale
    return f"{scale.low} to {scale.high}"


def _unpublished_schema(config: DatasetConfig, kind: Kind | None) -> ClassSchema:
    """The schema of a refused dataset: with all bands, where it asks for some that its images do not have."""
    num_bands = kind.num_bands if kind else 3
    if max(config.band_numbers or (1,)) > num_bands:
        config = config.model_copy(update={"bands": None})
    return config.class_schema(config.selected_bands(num_bands, kind.alpha if kind else 0), None)


def needs(manifest: DatasetManifest, result: StagingResult) -> Iterator[Need]:
    """What later stages will need for this dataset."""
    size = {name: sum(shard.size_bytes for shard in info.shards) for name, info in manifest.splits.items()}
    if "train" in manifest.splits:
        images = manifest.splits["train"].num_tiles
        yield Need("train", "images per epoch", f"{images:,} ({-(-images // _BATCH):,} steps of {_BATCH})")
        yield Need("train", "local disk for shards", gigabytes(size["train"] + size.get("val", 0)))
    predicted = [name for name in ("val", "test") if name in manifest.splits]
    if not predicted:
        return
    num_pixels = sum(result.statistics[name].num_pixels for name in predicted)
    values = num_pixels * manifest.class_schema.num_classes
    yield Need("export-probs", "local disk for shards", gigabytes(sum(size[name] for name in predicted)))
    yield Need("export-probs", f"images ({' and '.join(predicted)})", f"{_num_tiles(manifest, predicted):,}")
    low, high = (gigabytes(round(min(size * num_pixels, 2 * values))) for size in _probs_bytes_per_px(manifest))
    yield Need("export-probs", "storage per model", f"{low} to {high}, at most {gigabytes(2 * values)}")
    yield Need("average-probs", "storage for label maps, at most", gigabytes(num_pixels))


def _probs_bytes_per_px(manifest: DatasetManifest) -> tuple[float, float]:
    num_classes = manifest.class_schema.num_classes
    if default_dtype(num_classes) == "companded":
        return _PROBS_BYTES_PER_PX
    sharp, untrained_per_class = _MANY_PROBS_BYTES_PER_PX
    return sharp, untrained_per_class * num_classes


def gigabytes(num_bytes: int) -> str:
    """A number of bytes for people to read."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def as_json(report: DataReport) -> bytes:
    """The facts of the page, for programs."""
    document = {
        "name": report.name,
        "dataset_id": report.dataset_id,
        "published": bool(report.dataset_id),
        "splits": {
            split.name: {
                "num_tiles": split.num_tiles,
                "num_shards": split.num_shards,
                "size_bytes": split.size_bytes,
                "class_pixels": dict(zip(report.classes, split.class_pixels, strict=False)),
                "ignored_pixels": split.ignored_pixels,
                "band_mean": split.band_mean,
                "band_std": split.band_std,
                "tile_sizes": {f"{height}x{width}": count for (height, width), count in split.tile_sizes.items()},
            }
            for split in report.splits
        },
        "problems": [
            {"where": item.where, "problem": item.problem, "action": item.action, "severity": item.severity}
            for item in _kept(report.about_files)
        ],
        "problems_left_out": max(0, len(report.about_files) - _MOST_PROBLEMS),
        "warnings": list(report.warnings),
        "needs": [{"stage": need.stage, "what": need.what, "amount": need.amount} for need in report.needs],
        "seconds": report.seconds,
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _kept(problems: Sequence[Finding]) -> Sequence[Finding]:
    """As many as the JSON holds: errors before others where there are more."""
    if len(problems) <= _MOST_PROBLEMS:
        return problems
    return sorted(problems, key=lambda finding: finding.severity != "error")[:_MOST_PROBLEMS]


def _num_tiles(manifest: DatasetManifest, splits: Sequence[str]) -> int:
    return sum(info.num_tiles for name, info in manifest.splits.items() if name in splits)


def _splits(result: StagingResult, schema: ClassSchema) -> Iterator[SplitStats]:
    infos = {str(name): info for name, info in result.loaded.document.splits.items()} if result.loaded else {}
    source = result.loaded.document.source_values if result.loaded else None
    for name, sums in result.statistics.items():
        if not sums.num_pixels:
            continue
        mean, std = sums.mean_std(schema.bands)
        if source:  # in the images' own values
            mean, std = source.source_moments(mean, std, schema.bands)
        labelled = bool(sums.label_counts)
        shards = infos[name].shards if name in infos else ()
        yield SplitStats(
            name=name,
            num_tiles=sum(sums.tile_sizes.values()),
            labelled=labelled,
            size_bytes=sum(shard.size_bytes for shard in shards),
            num_shards=len(shards),
            class_pixels=sums.class_pixels(schema) if labelled else (),
            ignored_pixels=sums.ignored_pixels(schema),
            band_mean=mean,
            band_std=std,
            class_tiles=sums.class_tiles(schema) if labelled else (),
            tile_sizes=dict(sorted(sums.tile_sizes.items())),
        )


def _findings(result: StagingResult, schema: ClassSchema) -> Iterator[Finding]:
    """Errors, or warnings of the tiles that were left out; then what looks suspicious; then notes."""
    for finding in result.findings.errors:
        if result.loaded:
            finding = replace(finding, problem=f"left out: {finding.problem}", severity="warning")
        yield finding
    source = result.loaded.document.source_values if result.loaded else None
    yield from result.review.findings(schema, result.statistics, result.config, source)
    yield from result.findings.warnings
    yield from result.findings.notes


def _samples(result: StagingResult, schema: ClassSchema) -> Iterator[SampleTile]:
    """A few tiles, read back from the published shards."""
    if result.loaded is None:
        return
    folder = storage.parent(result.loaded.uri)
    for split, info in result.loaded.document.splits.items():
        for tile in result.review.samples.get(split, ()):
            yield _sample(split, tile, storage.join(folder, info.shards[tile.shard].path), schema)


def _sample(split: str, tile: Tile, shard: str, schema: ClassSchema) -> SampleTile:
    image = to_model_range(
        decode_image(storage.get_bytes(shard, byte_range=tile.image, sha256=tile.image_sha256), tile.id), schema
    )
    label = None
    if tile.label is not None:
        data = storage.get_bytes(shard, byte_range=tile.label, sha256=tile.label_sha256)
        label = to_class_ids(decode_label(data, tile.id), schema, tile.id)
    return SampleTile(tile.id, split, _rgb(shrink(image)), None if label is None else shrink(label))


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first three bands; one or two are shown as grey."""
    return np.ascontiguousarray(image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2))
