"""Bands and scale of a dataset: which band values become 0 and 255."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from landseg.contracts.dataset import Scale
from landseg.contracts.errors import DataError
from landseg.dataset.statistics import SplitStatistics, percentile_scale
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.config.rules import PercentileScale
from landseg.raw.expected import Expected
from landseg.raw.findings import Finding
from landseg.raw.images.values import Conversion, Kind

USUAL_NODATA = (-9999, -99999, -32768, -32767, 65535)
"""Values that mostly stand for no data where they are an end of what images hold."""
_FEWEST_LEVELS = 24
"""Of the 256: 98 % of a band's values in fewer leave a model little to tell things apart by."""
_CLIPPED_SHARE = 0.05
"""Percentiles 1-99 clip 1 % at either end, and their bands may do so in different pixels; more is worth a warning."""


def needs_histogram(config: DatasetConfig, kind: Kind) -> bool:
    """Whether the scale depends on the values of all tiles."""
    if kind.is_wide:  # measured before anything is staged
        return False
    return isinstance(config.scale, PercentileScale) or (config.scale is None and kind.dtype in ("uint16", "int16"))


def resolve_scale(
    expected: Expected, kind: Kind, statistics: Mapping[str, SplitStatistics]
) -> tuple[Scale | None, list[Finding]]:
    """The scale of the selected bands in stored values, None where they are used as stored; and notes on the choice."""
    config, conversion, bands = expected.config, expected.conversion, expected.bands
    notes = list(_notes_on_bands(config, kind))
    if not needs_histogram(config, kind):
        fixed = expected.scale
        return conversion.record.stored_scale(fixed, bands) if fixed and conversion else fixed, notes
    rule = config.scale if isinstance(config.scale, PercentileScale) else PercentileScale()
    split = next(iter(statistics))
    if split != "train":
        notes.append(Finding.note(f"there is no train split: the scale comes from {split}"))
    histogram = statistics[split].histogram
    assert histogram is not None, "a staged split has tiles"
    scale, flat = percentile_scale(histogram, bands, rule.low, rule.high)
    if config.scale is None:
        shown = ", ".join(_ranges(scale, bands, conversion))
        percentiles = f"percentiles {rule.low:g}-{rule.high:g}"
        sentence = f"{kind.dtype} and no scale in dataset.yaml: {percentiles} of each band ({shown}) become 0-255"
        notes.append(Finding.note(sentence))
    notes += [Finding.note(f"band {band} is nearly constant in {split}: its percentiles coincide") for band in flat]
    return scale, notes


def nodata_ends(expected: Expected, scale: Scale | None, where: str) -> list[Finding]:
    """The error of percentiles of which one is a value that mostly stands for no data, and is not declared to.

    Args:
        expected: bands and conversion.
        scale: of the selected bands, in stored values.
        where: `dataset.yaml`, for the error line.
    """
    if scale is None or scale.method != "percentile" or expected.config.nodata is not None:
        return []
    source = expected.conversion.record.source_scale(scale, expected.bands) if expected.conversion else scale
    found = next((value for value in (*source.low, *source.high) if value in USUAL_NODATA), None)
    if found is None:
        return []
    problem = f"expected values that were measured, found {found:g}, which is a percentile that becomes 0 or 255"
    action = f"write nodata: {found:.0f} in dataset.yaml if it stands for no data, and nodata: none if it is a value"
    return [Finding.of(DataError(where, problem, action))]


def narrow(expected: Expected, scale: Scale | None, statistics: Mapping[str, SplitStatistics]) -> Iterator[Finding]:
    """Warnings of bands whose values take few of the 256 levels that a model sees.

    Args:
        expected: bands and conversion.
        scale: of the selected bands, in stored values; None where 8 bits are used as they are.
        statistics: by split; only values that were looked at in this staging.
    """
    split, sums = next(iter(statistics.items()))
    if sums.histogram is None or (scale is not None and scale.method != "range"):
        return
    found = []
    for position, band in enumerate(expected.bands):
        counts = sums.histogram[band - 1]
        width = scale.high[position] - scale.low[position] if scale else len(counts) - 1
        if not counts.any():
            continue
        low, high = np.searchsorted(np.cumsum(counts), [0.01 * counts.sum(), 0.99 * counts.sum()]).tolist()
        if 0 < (num_levels := 256 * (high - low) / width) < _FEWEST_LEVELS:
            found.append(f"band {band} ({num_levels:.0f})")
    if found:
        sentence = f"98 % of the values of {split} take few of the 256 levels that a model sees: {', '.join(found)}"
        action = "is the scale in the images' units?" if scale else "is a scale missing?"
        yield Finding("", f"{sentence}; {action}", severity="warning")


def _ranges(scale: Scale, bands: tuple[int, ...], conversion: Conversion | None) -> Iterator[str]:
    source = conversion.record.source_scale(scale, bands) if conversion else scale
    for low, high in zip(source.low, source.high, strict=True):
        yield f"{low:g}-{high:g}" if low >= 0 else f"{low:g} to {high:g}"


def _notes_on_bands(config: DatasetConfig, kind: Kind) -> Iterator[Finding]:
    numbers = config.band_numbers
    if kind.alpha and config.alpha == "band" and (numbers is None or kind.alpha in numbers):
        others = [band for band in numbers or range(1, kind.num_bands + 1) if band != kind.alpha]
        yield Finding.note(
            f"band {kind.alpha} is alpha by its tag, and a model sees it: bands: {others} leaves it out, "
            "alpha: mask takes it for the mask of the pixels that have data"
        )
    elif config.bands is None and kind.num_bands != 3:
        used = len(config.selected_bands(kind.num_bands, kind.alpha))
        if used != 3:
            yield Finding.note(f"dataset.yaml lists no bands: all {used} are used, in the files' order")


def clipped(expected: Expected, scale: Scale | None, statistics: Mapping[str, SplitStatistics]) -> Iterator[Finding]:
    """Warnings of bands of which the scale clips a large share.

    Args:
        expected: bands and conversion.
        scale: of the selected bands, in stored values.
        statistics: by split; only values that were looked at in this staging.
    """
    if scale is None or scale.method != "range":
        return
    bands = expected.bands
    shown = list(_ranges(scale, bands, expected.conversion))
    for split, sums in statistics.items():
        found = []
        for position, band in enumerate(bands):
            share = _clipped_share(sums, band, scale.low[position], scale.high[position])
            if share > _CLIPPED_SHARE:
                least, most = _extent(sums, position, band, expected.conversion)
                values = f"values from {least:g} to {most:g}, scale {shown[position]}"
                found.append(f"{100 * share:.0f} % of band {band} ({values})")
        if found:
            sentence = f"the scale clips {', '.join(found)} of {split}: is it in the images' units?"
            yield Finding("", sentence, severity="warning")


def _clipped_share(sums: SplitStatistics, band: int, low: float, high: float) -> float:
    """The share of a band's values beyond a scale in stored values; 0 where none was looked at."""
    if sums.histogram is None or not sums.histogram[band - 1].any():
        return 0.0
    counts = sums.histogram[band - 1]
    levels = np.arange(len(counts))
    # Wide values beyond their scale were stored as its ends.
    within = (levels > low) & (levels < high) if sums.extremes is not None else (levels >= low) & (levels <= high)
    return float(counts[~within].sum() / counts.sum())


def _extent(sums: SplitStatistics, position: int, band: int, conversion: Conversion | None) -> tuple[float, float]:
    """Least and largest value of a band in the images' units."""
    if sums.extremes is not None:
        return float(sums.extremes[0, position]), float(sums.extremes[1, position])
    assert sums.histogram is not None, "looked at"
    (levels,) = sums.histogram[band - 1].nonzero()
    first = conversion.first[band - 1] if conversion else 0.0
    return float(levels[0]) + first, float(levels[-1]) + first


def config_errors(config: DatasetConfig, kind: Kind, where: str) -> list[Finding]:
    """What dataset.yaml asks for that the images do not have."""
    numbers = config.band_numbers
    if numbers and max(numbers) > kind.num_bands:
        error = DataError(where, f"bands asks for band {max(numbers)}, the images have {kind.num_bands}")
        return [Finding.of(error)]
    if config.band_names and len(config.band_names) != kind.num_bands:
        problem = f"band_names gives {len(config.band_names)} names, the images have {kind.num_bands} bands"
        return [Finding.of(DataError(where, problem, "name every band of the files, in their order"))]
    try:
        config.check_bands(len(config.selected_bands(kind.num_bands, kind.alpha)))
    except ValueError as err:
        return [Finding.of(DataError(where, str(err)))]
    return []
