"""The data report: what was staged, how the classes are spread, which files are wrong and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from landseg.report.page import Facts


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
        band_mean: per selected band, in stored units.
        band_std: per selected band, in stored units.
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
class Problem:
    """Something wrong with one file.

    Attributes:
        where: the file, URI or tile id.
        problem: what was expected and what was found.
        action: what to do about it.
        severity: `error` keeps the dataset from being published, `warning` does not.
    """

    where: str
    problem: str
    action: str = ""
    severity: Literal["error", "warning"] = "error"


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
        problems: per file, errors first.
        warnings: about the dataset as a whole, one sentence each (a class that train lacks, a one-class split ...).
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
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    samples: tuple[SampleTile, ...] = ()
    seconds: float | None = None
    provenance: Facts = field(default_factory=dict)
