"""Bands and scale of a dataset: which stored band values become 0 and 255."""

from __future__ import annotations

from collections.abc import Mapping

from landseg.contracts.dataset import Scale
from landseg.contracts.errors import DataError
from landseg.dataset.statistics import SplitStatistics, percentile_scale
from landseg.raw.checks import Kind
from landseg.raw.dataset_yaml import DatasetConfig, PercentileScale
from landseg.raw.findings import Finding


def needs_histogram(config: DatasetConfig, kind: Kind) -> bool:
    """Whether the scale depends on the values of all tiles."""
    return isinstance(config.scale, PercentileScale) or (config.scale is None and kind.dtype == "uint16")


def resolve_scale(
    config: DatasetConfig, kind: Kind, statistics: Mapping[str, SplitStatistics]
) -> tuple[Scale | None, list[Finding]]:
    """The scale of the selected bands, None where values are used as stored; and notes on how it was chosen."""
    notes: list[Finding] = []
    if config.bands is None and kind.num_bands != 3:
        notes.append(Finding.note(f"dataset.yaml lists no bands: all {kind.num_bands} are used, in the files' order"))
    bands = config.bands or tuple(range(1, kind.num_bands + 1))
    if not needs_histogram(config, kind):
        return config.scale_for(len(bands)), notes
    rule = config.scale if isinstance(config.scale, PercentileScale) else PercentileScale()
    split = next(iter(statistics))
    if split != "train":
        notes.append(Finding.note(f"there is no train split: the scale comes from {split}"))
    histogram = statistics[split].histogram
    assert histogram is not None, "a staged split has tiles"
    scale, flat = percentile_scale(histogram, bands, rule.low, rule.high)
    if config.scale is None:
        shown = ", ".join(f"{first:g}-{last:g}" for first, last in zip(scale.low, scale.high, strict=True))
        percentiles = f"percentiles {rule.low:g}-{rule.high:g}"
        sentence = f"uint16 and no scale in dataset.yaml: {percentiles} of each band ({shown}) become 0-255"
        notes.append(Finding.note(sentence))
    notes += [Finding.note(f"band {band} is nearly constant in {split}: its percentiles coincide") for band in flat]
    return scale, notes


def config_errors(config: DatasetConfig, kind: Kind, where: str) -> list[Finding]:
    """What dataset.yaml asks for that the images do not have."""
    if config.bands and max(config.bands) > kind.num_bands:
        error = DataError(where, f"bands asks for band {max(config.bands)}, the images have {kind.num_bands}")
        return [Finding.of(error)]
    if config.band_names and len(config.band_names) != kind.num_bands:
        problem = f"band_names gives {len(config.band_names)} names, the images have {kind.num_bands} bands"
        return [Finding.of(DataError(where, problem, "name every band of the files, in their order"))]
    try:
        config.scale_for(len(config.bands) if config.bands else kind.num_bands)
    except ValueError as err:
        return [Finding.of(DataError(where, str(err)))]
    return []
