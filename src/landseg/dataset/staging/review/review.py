"""What looks suspicious in a dataset as a whole although every file is valid: reported before a GPU is asked for."""

from __future__ import annotations

import bisect
import itertools
import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import SPLITS, ClassSchema, SourceValues
from landseg.contracts.documents import sha256_hex
from landseg.contracts.tile import GeoKeys, Tile
from landseg.dataset.staging.review.alike import FirstOfAlike
from landseg.dataset.staging.review.footprints import Footprints
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.compact_list import text_list
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.labels.unknown.proposals import flow_map, mask_map

_EXAMPLES = 3
_SAMPLES = 4
_MAX_TILE_WARNINGS = 200
_SIZE_RATIO = 2
_MEAN_SHIFT = 0.5
_STD_RATIO = 2
_WHITE = 255


class _Named:
    """How many there are, and the names of the first few."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if self.count <= _EXAMPLES:
            self._first.append(name)

    @property
    def examples(self) -> str:
        """The first ones."""
        return ", ".join(self._first) + (", ..." if self.count > _EXAMPLES else "")

    def counted(self, noun: str) -> str:
        """Their number with a noun."""
        return f"{self.count} {noun}{'' if self.count == 1 else 's'}"


class Review:
    """Goes through a dataset tile by tile. Takes some 20 bytes of memory per tile, and where it lies.

    Attributes:
        crs: the coordinate reference systems that the tiles refer to by position.
    """

    def __init__(self, crs: Sequence[GeoKeys] = ()) -> None:
        self.crs = crs
        self._samples: dict[str, list[tuple[str, Tile]]] = defaultdict(list)
        self._about_tiles: list[tuple[int, Finding]] = []
        self._ids = text_list()
        self._splits = array("b")
        self._footprints = Footprints()
        self._images, self._values = FirstOfAlike(), FirstOfAlike()
        self._constant: dict[str, _Named] = defaultdict(_Named)
        self._empty: dict[str, _Named] = defaultdict(_Named)
        self._one_value: dict[str, _Named] = defaultdict(_Named)
        self._labels: dict[str, int] = defaultdict(int)
        self._masks = _Named()
        self._is_255_ignored = False

    @property
    def samples(self) -> Mapping[str, Sequence[Tile]]:
        """A few tiles of each split, drawn by a hash of their ids: the same ones each time."""
        return {split: [tile for _, tile in drawn] for split, drawn in self._samples.items()}

    def add(self, split: str, tile: Tile, ignored: int) -> None:
        """Look at a tile; `ignored` is the stored label value that is ignored."""
        self._draw(split, tile)
        self._ids.append(tile.id)
        self._splits.append(SPLITS.index(split))
        self._footprints.add(split, tile)
        self._images.add(int(tile.image_sha256[:15], 16))  # 60 bits: two images in 10^9 would hardly share them
        self._values.add(_values_key(tile))
        num_pixels = tile.num_valid_px
        bands = list(zip(tile.band_sums, tile.band_squares, strict=True))
        if not num_pixels:
            self._empty[split].add(tile.id)
            self._warn(split, tile.id, "no pixel has data", "leave the tile out")
        elif all(num_pixels * squares == total * total for total, squares in bands):
            self._constant[split].add(tile.id)
            value = "/".join(str(total // num_pixels) for total, _ in bands)
            self._warn(split, tile.id, f"every pixel is {value}: no data?", "leave the tile out")
        if tile.label_counts:
            self._labels[split] += 1
            self._look_for_masks(split, tile)
            if len(tile.label_counts) == 1:
                self._one_value[split].add(tile.id)
                if tile.label_counts[0][0] == ignored:
                    self._warn(split, tile.id, "every label pixel is ignored", "leave the tile out, or label it")

    def _look_for_masks(self, split: str, tile: Tile) -> None:
        values = {value for value, _ in tile.label_counts}
        if values <= {0, _WHITE}:
            if _WHITE in values:
                self._masks.add(f"{split}/{tile.id}")
        elif _WHITE in values:
            self._is_255_ignored = True

    def _draw(self, split: str, tile: Tile) -> None:
        drawn, place = self._samples[split], sha256_hex(tile.id.encode())
        if len(drawn) < _SAMPLES or place < drawn[-1][0]:
            bisect.insort(drawn, (place, tile), key=itemgetter(0))
            del drawn[_SAMPLES:]

    def _warn(self, split: str, tile_id: str, problem: str, action: str) -> None:
        if len(self._about_tiles) < _MAX_TILE_WARNINGS:
            finding = Finding(f"{split}/{tile_id}", problem, action, "warning", split, tile_id)
            self._about_tiles.append((len(self._ids) - 1, finding))

    def _split(self, number: int) -> str:
        return SPLITS[self._splits[number]]

    def _name(self, number: int) -> str:
        return f"{self._split(number)}/{self._ids[number]}"

    def findings(
        self,
        schema: ClassSchema,
        statistics: Mapping[str, SplitStatistics],
        config: DatasetConfig,
        source: SourceValues | None = None,
    ) -> Iterator[Finding]:
        """Warnings: about the first suspicious tiles, then about the dataset as a whole."""
        duplicates, first = self._images.pairs()
        yield from self._warnings(duplicates, first)
        for sentence in itertools.chain(
            self._about_duplicates(duplicates, first),
            self._about_same_values(duplicates),
            self._footprints.findings(self.crs),
            self._about_values(),
            self._about_masks(config, statistics),
            _about_classes(schema, statistics, config),
            _about_sizes(statistics),
            _about_bands(schema, statistics, source),
            _about_unused_labels(schema, statistics),
        ):
            yield Finding("", sentence, severity="warning")
        for split, sums in statistics.items():
            if missing := sums.num_pixels - sums.num_valid_px:
                share = 100 * missing / sums.num_pixels
                yield Finding.note(
                    f"{missing} px of {split} ({share:.1f} %) have no data: they are left out of statistics, training "
                    "and scores (nodata: none in dataset.yaml takes them for values)"
                )

    def _warnings(self, duplicates: NDArray[np.int64], first: NDArray[np.int64]) -> Iterator[Finding]:
        """Warnings about the first suspicious tiles, in order."""
        found = [
            (int(number), self._about_duplicate(int(number), int(other)))
            for number, other in zip(duplicates[:_MAX_TILE_WARNINGS], first, strict=False)
        ]
        in_order = sorted([*found, *self._about_tiles], key=itemgetter(0))
        return (finding for _, finding in in_order[:_MAX_TILE_WARNINGS])

    def _about_duplicate(self, number: int, first: int) -> Finding:
        problem = f"the same bytes as {self._name(first)}"
        split, tile_id = self._split(number), self._ids[number]
        return Finding(self._name(number), problem, "keep one of them", "warning", split, tile_id)

    def _by_splits(self, numbers: NDArray[np.int64], first: NDArray[np.int64]) -> dict[tuple[str, str], _Named]:
        """Pairs of a tile and the first one like it, by the splits of the first one and of the tile."""
        found: dict[tuple[str, str], _Named] = defaultdict(_Named)
        for number, other in zip(numbers.tolist(), first.tolist(), strict=True):
            named = found[self._split(other), self._split(number)]
            named.add(f"{self._ids[other]} = {self._ids[number]}" if named.count < _EXAMPLES else "")
        return found

    def _about_duplicates(self, duplicates: NDArray[np.int64], first: NDArray[np.int64]) -> Iterator[str]:
        for (one, other), pairs in self._by_splits(duplicates, first).items():
            if one == other:
                yield f"{pairs.counted('image')} of {one} identical to another one in it ({pairs.examples})"
            else:
                yield (
                    f"{pairs.counted('image')} both in {one} and in {other} ({pairs.examples}): "
                    f"scores on {other} would look better than the model is"
                )

    def _about_same_values(self, duplicates: NDArray[np.int64]) -> Iterator[str]:
        for (one, other), pairs in self._by_splits(*self._values.pairs(duplicates)).items():
            yield (
                f"{pairs.counted('image')} of {other} with the very values of another in {one}, in other bytes, or "
                f"mirrored or turned ({pairs.examples})"
                + ("" if one == other else f": scores on {other} would look better than the model is")
            )

    def _about_values(self) -> Iterator[str]:
        for split, named in self._constant.items():
            yield f"{named.counted('image')} of {split} with one value only ({named.examples}): no data?"
        for split, named in self._empty.items():
            yield f"{named.counted('image')} of {split} without any data ({named.examples})"
        for split, named in self._one_value.items():
            share = 100 * named.count / self._labels[split]
            yield f"{named.counted('label')} of {split} ({share:.1f} %) with one value only ({named.examples})"

    def _about_masks(self, config: DatasetConfig, statistics: Mapping[str, SplitStatistics]) -> Iterator[str]:
        """Labels of 0 and 255 among those of 0 and 1: none has 255 beside a class, as it would have ignored pixels."""
        classes = {value for sums in statistics.values() for value in sums.label_counts} - {0, _WHITE}
        is_said = config.says_what_is_ignored or config.label_offset != 0
        if is_said or self._is_255_ignored or not self._masks.count or classes != {1}:
            return
        entries: dict[int | str, str] = {0: config.classes[0], "1, 255": config.classes[1]}
        proposed = flow_map(entries)
        yield (
            f"{self._masks.counted('label')} of 0 and 255 alone ({self._masks.examples}) among labels of 0 and 1: 255 "
            f"is ignored; if it means {config.classes[1]}, write label_values: {proposed} in dataset.yaml"
        )


def _values_key(tile: Tile) -> int | None:
    """What tells the values of images apart, whatever their bytes: their bands' sums and sums of squares.

    None for images of 0 and one other value: those of many images add up to the same.
    """
    if all(squares % total == 0 for total, squares in zip(tile.band_sums, tile.band_squares, strict=True) if total):
        return None
    return hash((tile.height * tile.width, tile.band_sums, tile.band_squares))


def _about_classes(
    schema: ClassSchema, statistics: Mapping[str, SplitStatistics], config: DatasetConfig
) -> Iterator[str]:
    says_by_name = config.has_label_map or (config.labels is not None and config.labels.is_vector)
    for split, sums in statistics.items():
        if not sums.label_counts:
            continue
        values = set(sums.label_counts)
        if values == {0, 255}:
            yield (
                f"the labels of {split} hold only 0 and 255, which is ignored: a 0/255 mask? Then write "
                f"label_values: {flow_map(mask_map((0, 255), schema.classes))} in dataset.yaml"
            )
        missing = [name for name, count in zip(schema.classes, sums.class_pixels(schema), strict=True) if not count]
        if not missing:
            continue
        means = "no model can learn them" if split == "train" else "they are left out of the scores"
        yield f"classes that never occur in {split}: {', '.join(missing)}; {means}"
        if missing == [schema.classes[0]] and schema.label_offset == 0 and not says_by_name:
            yield f"only the first class is missing in {split}: do the labels run from 1? Then set label_offset: 1"


def _about_unused_labels(schema: ClassSchema, statistics: Mapping[str, SplitStatistics]) -> Iterator[str]:
    for split, sums in statistics.items():
        found = [
            f"{count} px {schema.classes[value - schema.label_offset]}"
            if 0 <= value - schema.label_offset < schema.num_classes
            else f"{count} px {value}"
            for value, count in sorted(sums.unused_labels.items())
        ]
        if found:
            total, shown = sum(sums.unused_labels.values()), ", ".join(found)
            yield f"{total} px of {split} are labelled where the image has no data ({shown}): they are ignored"


def _about_sizes(statistics: Mapping[str, SplitStatistics]) -> Iterator[str]:
    sides = [side for sums in statistics.values() for size in sums.tile_sizes for side in size]
    if sides and max(sides) > _SIZE_RATIO * min(sides):
        yield f"tile sizes differ widely: sides from {min(sides)} to {max(sides)} px; crops and resizing will too"


def _about_bands(
    schema: ClassSchema, statistics: Mapping[str, SplitStatistics], source: SourceValues | None
) -> Iterator[str]:
    moments = {split: sums.mean_std(schema.bands) for split, sums in statistics.items() if sums.num_valid_px}
    if source:
        moments = {split: source.source_moments(*both, schema.bands) for split, both in moments.items()}
    for first, second in itertools.combinations(moments, 2):
        (means, stds), (other_means, other_stds) = moments[first], moments[second]
        for band, mean, std, other_mean, other_std in zip(
            schema.bands, means, stds, other_means, other_stds, strict=True
        ):
            spread = max(std, other_std)
            ratio = spread / min(std, other_std) if min(std, other_std) > 0 else math.inf
            if spread > 0 and (abs(mean - other_mean) > _MEAN_SHIFT * spread or ratio > _STD_RATIO):
                yield (
                    f"band {band} differs between {first} and {second}: "
                    f"mean {mean:.4g} against {other_mean:.4g}, deviation {std:.4g} against {other_std:.4g}"
                )
