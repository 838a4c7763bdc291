"""The range of wide values, floats and integers of more than 16 bits, which storing them needs before anything else."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landseg.cli.progress import Progress
from landseg.contracts.dataset import Scale
from landseg.contracts.errors import DataError
from landseg.dataset.scaling import USUAL_NODATA
from landseg.raw.config.rules import PercentileScale
from landseg.raw.expected import Expected
from landseg.raw.findings import Finding
from landseg.raw.images.decoded import widest
from landseg.raw.layout.source_tiles import SourceTile, jobs
from landseg.raw.probing import measure_tiles
from landseg.raw.processes import ProcessPool
from landseg.raw.sources.source import Source

_SAMPLED_PX = 1 << 20
_LEAST_PER_TILE = 64
_EIGHT_BITS = 255
_NO_MEASUREMENT = 1e30
"""What no sensor measures: the least and the largest float are usual values of pixels without data."""


@dataclass(frozen=True)
class Measured:
    """Values of the selected bands: (2, bands) least and largest, and (pixels, bands) a sample."""

    extremes: NDArray[np.float64]
    sample: NDArray[np.float64]

    def percentiles(self, low: float, high: float) -> tuple[list[float], list[float]]:
        """Two percentiles, 0-100, of each band; where they are equal, the higher one is raised by 1."""
        lows, highs = np.quantile(self.sample, [low / 100, high / 100], axis=0, method="inverted_cdf").tolist()
        return lows, [high if high > low else low + 1 for low, high in zip(lows, highs, strict=True)]

    def without(self, nodata: float) -> Measured:
        """The same without the pixels of which a band holds a value."""
        return Measured(self.extremes, self.sample[(self.sample != nodata).all(axis=1)])


def measure_scale(
    source: Source,
    expected: Expected,
    split: str,
    tiles: Sequence[SourceTile],
    processes: ProcessPool,
    *,
    where: str,
) -> tuple[Scale | None, list[Finding]]:
    """The scale of the selected bands by the percentiles that `dataset.yaml` asks for.

    Args:
        source: where the images are.
        expected: what they are, and which bands are selected.
        split: the split to look at.
        tiles: its tiles.
        processes: do the work.
        where: `dataset.yaml`, for the error line.

    Returns:
        The scale and a note on it; or None and an error, with the lines to write where `dataset.yaml` has no scale.
    """
    assert expected.kind is not None, "there is an image"
    measured = _measure(source, expected, split, tiles, processes)
    if measured is None:
        return None, [Finding.of(DataError(where, f"no pixel of {split} has data", "check nodata"))]
    nodata = _undeclared_nodata(measured) if expected.config.nodata is None else None
    rule = expected.config.scale
    if isinstance(rule, PercentileScale):
        return _by_percentiles(measured, rule, nodata, split, where)
    return None, [Finding.of(_lacking_scale(measured, nodata, expected.kind.dtype, split, where))]


def _by_percentiles(
    measured: Measured, rule: PercentileScale, nodata: float | None, split: str, where: str
) -> tuple[Scale | None, list[Finding]]:
    lows, highs = measured.percentiles(rule.low, rule.high)
    if nodata is not None and (abs(nodata) >= _NO_MEASUREMENT or nodata in (*lows, *highs)):
        problem = f"expected values that were measured, found {nodata!r} in {split}"
        write = f"write nodata: {_exactly(nodata)} if it stands for no data, or a scale of method range"
        return None, [Finding.of(DataError(where, problem, f"{write} if it is a value"))]
    notes: list[Finding] = []
    if nodata is not None:
        sentence = f"images of {split} hold {nodata:g}: no data? Then write nodata: {_exactly(nodata)} in dataset.yaml"
        notes.append(Finding("", sentence, severity="warning"))
    shown = ", ".join(f"{low:g} to {high:g}" for low, high in zip(lows, highs, strict=True))
    sentence = f"percentiles {rule.low:g}-{rule.high:g} of a sample of {split}'s pixels, per band: {shown}"
    return Scale(low=tuple(lows), high=tuple(highs), method="percentile"), [*notes, Finding.note(sentence)]


def _lacking_scale(measured: Measured, nodata: float | None, dtype: str, split: str, where: str) -> DataError:
    """The error of a dataset that needs a scale and has none, with the line to write."""
    rule, reason = PercentileScale(), "percentiles 1 and 99"
    lows, highs = (measured if nodata is None else measured.without(nodata)).percentiles(rule.low, rule.high)
    if "int" in dtype and measured.extremes.min() >= 0 and measured.extremes.max() <= _EIGHT_BITS:
        lows, highs, reason = [0.0] * len(lows), [float(_EIGHT_BITS)] * len(lows), "all values of 8 bits"
    low, high = _yaml(lows, highs)
    lines = f"scale: {{method: range, low: {low}, high: {high}}}"
    action = f"write {lines} ({reason}), and nodata: VALUE if one of them stands for no data"
    if nodata is not None:
        action = f"write {lines} ({reason} of the others), and nodata: {_exactly(nodata)} if it stands for no data"
    found = ", ".join(f"{_number(low)} to {_number(high)}" for low, high in zip(*measured.extremes, strict=True))
    return DataError(where, f"{dtype} images need a scale: values of {split} run from {found}", action)


def _undeclared_nodata(measured: Measured) -> float | None:
    """The least or largest value where it looks like one that stands for no data."""
    for value in (float(measured.extremes[0].min()), float(measured.extremes[1].max())):
        if abs(value) >= _NO_MEASUREMENT or value in USUAL_NODATA:
            return value if (measured.sample != value).all(axis=1).any() else None
    return None


def _exactly(value: float) -> str:
    """A number as YAML reads it, with all its digits."""
    return str(int(value)) if abs(value) < _NO_MEASUREMENT else repr(value)


def _measure(
    source: Source, expected: Expected, split: str, tiles: Sequence[SourceTile], processes: ProcessPool
) -> Measured | None:
    """Look at all tiles; None where no pixel has data. Files that cannot be read are left to the checks."""
    per_tile = max(_LEAST_PER_TILE, _SAMPLED_PX // max(1, len(tiles)))
    extremes: NDArray[np.float64] | None = None
    samples: list[NDArray[np.float64]] = []
    with Progress(f"measuring {split}", len(tiles), "tiles") as progress:
        work = functools.partial(measure_tiles, source, expected, per_tile)
        for num_tiles, of_tiles, sample in processes.map(work, jobs(tiles)):
            extremes = widest(extremes, of_tiles)
            samples.append(sample)
            progress.advance(num_tiles)
    if extremes is None:
        return None
    return Measured(extremes, np.concatenate(samples))


def _yaml(lows: Sequence[float], highs: Sequence[float]) -> tuple[str, str]:
    """One number each for all bands, or a list each."""
    pairs = [(_number(low), _number(high)) for low, high in zip(lows, highs, strict=True)]
    if len(set(pairs)) == 1:
        return pairs[0]
    return f"[{', '.join(low for low, _ in pairs)}]", f"[{', '.join(high for _, high in pairs)}]"


def _number(value: float) -> str:
    """Six digits, as YAML reads a number: it takes 1e+06 for a text."""
    text = f"{value + 0.0:.6g}"
    mantissa, exponent, power = text.partition("e")
    return text if not exponent or "." in mantissa else f"{mantissa}.0e{power}"
