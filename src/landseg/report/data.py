"""The data report: what was staged, how frequent the classes are, which files are wrong and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from landseg.raw.findings import Finding
from landseg.report import figures
from landseg.report.figures import Mark
from landseg.report.page import MAX_TABLE_ROWS, PICTURE_BYTES, Facts, count, palette_css, percent, render_page, sentence
from landseg.report.tile_pictures import Picture, Studio, encode_within_budget

_MAX_SIZES = 6


@dataclass(frozen=True)
class SplitStats:
    """One split.

    Attributes:
        name: train, val or test.
        num_tiles: number of tiles.
        labelled: whether its tiles have labels.
        size_bytes: size of its shards.
        num_shards: number of shards.
        class_pixels: labelled pixels per class; empty where unlabelled.
        ignored_pixels: pixels with the ignored label value.
        class_tiles: tiles that hold each class; empty where not counted.
        band_mean: per selected band, in the images' values.
        band_std: per selected band, in the images' values.
        tile_sizes: number of tiles by (height, width) in pixels; empty where not counted.
    """

    name: str
    num_tiles: int
    labelled: bool
    size_bytes: int
    num_shards: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    band_mean: tuple[float, ...]
    band_std: tuple[float, ...]
    class_tiles: tuple[int, ...] = ()
    tile_sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """What a later stage will need for this dataset, e.g. ("export-probs", "storage per model", "1.8 GB")."""

    stage: str
    what: str
    amount: str


@dataclass(frozen=True, eq=False)
class SampleTile:
    """A tile to look at.

    Attributes:
        tile_id: the tile's id.
        split: the split it belongs to.
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8 class ids; None where no label exists.
    """

    tile_id: str
    split: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class DataReport:
    """Everything the page shows.

    Attributes:
        name: the dataset's name.
        dataset_id: the content's id; empty where nothing was published.
        classes: class names in class-id order.
        palette: one RGB colour per class.
        bands: 1-based numbers of the selected bands.
        num_bands: bands in the files.
        dtype: stored data type.
        splits: one entry per split, train first.
        findings: about files and tiles, and about the dataset as a whole (a class that train lacks, for example).
        needs: of later stages.
        samples: tiles to look at.
        seconds: what staging took; None where not measured.
        provenance: sections of facts: source, parameters, versions.
    """

    name: str
    dataset_id: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    bands: tuple[int, ...]
    num_bands: int
    dtype: str
    splits: tuple[SplitStats, ...]
    findings: tuple[Finding, ...] = ()
    needs: tuple[Need, ...] = ()
    samples: tuple[SampleTile, ...] = ()
    seconds: float | None = None
    provenance: Facts = field(default_factory=dict)

    @property
    def about_files(self) -> list[Finding]:
        """The findings about single files and tiles, in the order in which they were made."""
        return [finding for finding in self.findings if finding.where]

    @property
    def warnings(self) -> list[str]:
        """What every page shows under this name: here, the findings about the dataset as a whole, a sentence each."""
        return [finding.problem for finding in self.findings if not finding.where]


@dataclass(frozen=True)
class ClassRow:
    """A class in the table: its share of each labelled split's pixels, and the chart."""

    class_id: int
    shares: tuple[float, ...]
    dots: Markup


@dataclass(frozen=True)
class Sample:
    """A sample tile with its pictures."""

    tile: SampleTile
    image: Picture
    label: Picture | None


def render(report: DataReport) -> str:
    """Make the page.

    Returns:
        HTML, at most 5 MB.
    """
    labelled = [split for split in report.splits if split.labelled]
    rows, ruler = _class_rows(report, labelled)
    samples = encode_within_budget(
        report.samples, lambda tile, side: _sample(tile, Studio(report.classes, report.palette, side)), PICTURE_BYTES
    )
    about_files = sorted(report.about_files, key=lambda finding: finding.severity)
    num_errors = sum(finding.severity == "error" for finding in about_files)
    sections = [
        ("result", "Result", True),
        ("problems", "Problems", bool(about_files)),
        ("classes", "Classes", bool(rows)),
        ("bands", "Bands", True),
        ("files", "Files", True),
        ("needs", "What later stages need", bool(report.needs)),
        ("samples", "Tiles", bool(samples)),
        ("provenance", "Provenance", bool(report.provenance)),
    ]
    return render_page(
        "data.html",
        kind="data report",
        title=report.name,
        meta=[
            f"dataset {report.dataset_id}" if report.dataset_id else "not published",
            f"{len(report.classes)} classes",
        ],
        sections=[(id, name) for id, name, present in sections if present],
        palette_css=palette_css(report.palette),
        report=report,
        verdict=_verdict(report, num_errors),
        num_errors=num_errors,
        num_warnings=len(about_files) - num_errors,
        shown_findings=about_files[:MAX_TABLE_ROWS],
        labelled=labelled,
        has_tiles=any(split.class_tiles for split in labelled),
        markers=[figures.marker(number) for number in range(len(labelled))],
        class_rows=rows,
        class_ruler=ruler,
        sizes=[_sizes(split) for split in report.splits] if any(split.tile_sizes for split in report.splits) else [],
        samples=samples,
    )


def _verdict(report: DataReport, num_errors: int) -> Markup:
    """The result in one sentence."""
    tiles = sum(split.num_tiles for split in report.splits)
    if num_errors:
        return Markup("Not published: <b>{} {}</b> to fix first, listed below with what to do.").format(
            count(num_errors), "problem" if num_errors == 1 else "problems"
        )
    return Markup("<b>{} tiles</b> were checked, packed and published: {}.").format(
        count(tiles), sentence(f"{count(split.num_tiles)} {split.name}" for split in report.splits)
    )


def _class_rows(report: DataReport, labelled: list[SplitStats]) -> tuple[list[ClassRow], Markup]:
    """Rows in falling order of the first labelled split's shares, and the ruler of their chart."""
    if not labelled:
        return [], Markup("")
    shares = [tuple(pixels / max(1, sum(split.class_pixels)) for pixels in split.class_pixels) for split in labelled]
    axis = figures.axis([share for split in shares for share in split], low=0)
    rows = []
    for class_id in range(len(report.classes)):
        marks = [Mark(split.name, n, shares[n][class_id]) for n, split in enumerate(labelled)]
        own = tuple(split[class_id] for split in shares)
        rows.append(ClassRow(class_id, own, figures.dots(marks, axis, lambda value: f"{percent(value, 2)} %")))
    return sorted(rows, key=lambda row: -row.shares[0]), figures.ruler(axis, lambda value: percent(value, 0))


def _sizes(split: SplitStats) -> str:
    """The tile sizes, the most frequent first."""
    ranked = sorted(split.tile_sizes.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) == 1:
        (height, width), _ = ranked[0]
        return f"{height} × {width}"
    shown = [f"{height} × {width} ({count(number)})" for (height, width), number in ranked[:_MAX_SIZES]]
    more = len(ranked) - len(shown)
    return ", ".join(shown) + (f" and {count(more)} other sizes" if more else "")


def _sample(tile: SampleTile, studio: Studio) -> tuple[Sample, int]:
    image = studio.photo(tile.image, f"Tile {tile.tile_id}")
    label = None if tile.label is None else studio.labels(tile.label, f"Labels of tile {tile.tile_id}")
    return Sample(tile, image, label), image.num_bytes + (0 if label is None else label.num_bytes)
