"""What looks suspicious in a dataset as a whole although every file is valid: reported before a GPU is asked for."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from landseg.contracts.dataset import ClassSchema, GeoKeys, SourceValues, Tile
from landseg.contracts.documents import sha256_hex
from landseg.dataset.staging.footprints import Footprints
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.findings import Finding
from landseg.raw.labels.unknown_values import NAME, flow_map

_EXAMPLES = 3
_SAMPLES = 4
_MAX_TILE_WARNINGS = 200
_SIZE_RATIO = 2
_MEAN_SHIFT = 0.5
_STD_RATIO = 2


@dataclass
class Review:
    """Goes through a dataset tile by tile.

    Attributes:
        samples: a few tiles of each split, drawn by a hash of their ids: the same ones each time.
        crs: the coordinate reference systems that the tiles refer to by position.
    """

    crs: Sequence[GeoKeys] = ()
    samples: dict[str, list[Tile]] = field(default_factory=lambda: defaultdict(list))
    _about_tiles: list[Finding] = field(default_factory=list)
    _images: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    _duplicates: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    _constant: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _empty: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _one_value: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _labels: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _footprints: Footprints = field(default_factory=Footprints)
    _values: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    _same_values: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, split: str, tile: Tile, ignored: int) -> None:
        """Look at a tile; `ignored` is the stored label value that is ignored."""
        drawn = self.samples[split]
        drawn.append(tile)
        drawn.sort(key=lambda tile: sha256_hex(tile.id.encode()))
        del drawn[_SAMPLES:]
        self._footprints.add(split, tile)
        key = int(tile.image_sha256[:15], 16)  # 60 bits: small, and two images in 10^9 would hardly share them
        for first_split, images in self._images.items():
            if (first := images.get(key)) is not None:
                self._duplicates[first_split, split].append((first, tile.id))
                self._warn(split, tile.id, f"the same bytes as {first_split}/{first}", "keep one of them")
                break
        else:
            self._images[split][key] = tile.id
            self._compare_values(split, tile)
        num_pixels = tile.num_valid_px
        bands = list(zip(tile.band_sums, tile.band_squares, strict=True))
        if not num_pixels:
            self._empty[split].append(tile.id)
            self._warn(split, tile.id, "no pixel has data", "leave the tile out")
        elif all(num_pixels * squares == total * total for total, squares in bands):
            self._constant[split].append(tile.id)
            value = "/".join(str(total // num_pixels) for total, _ in bands)
            self._warn(split, tile.id, f"every pixel is {value}: no data?", "leave the tile out")
        if tile.label_counts:
            self._labels[split] += 1
            if len(tile.label_counts) == 1:
                self._one_value[split].append(tile.id)
                if tile.label_counts[0][0] == ignored:
                    self._warn(split, tile.id, "every label pixel is ignored", "leave the tile out, or label it")

    def _compare_values(self, split: str, tile: Tile) -> None:
        """Look for an image with the same values in other bytes: its bands have the same sums and sums of squares."""
        if all(squares % total == 0 for total, squares in zip(tile.band_sums, tile.band_squares, strict=True) if total):
            return  # 0 and one other value: that of many images add up to the same
        key = hash((tile.height * tile.width, tile.band_sums, tile.band_squares))
        for first_split, images in self._values.items():
            if (first := images.get(key)) is not None:
                self._same_values[first_split, split].append((first, tile.id))
                return
        self._values[split][key] = tile.id

    def _warn(self, split: str, tile_id: str, problem: str, action: str) -> None:
        if len(self._about_tiles) < _MAX_TILE_WARNINGS:
            where = f"{split}/{tile_id}"
            self._about_tiles.append(Finding(where, problem, action, "warning", split, tile_id))

    def findings(
        self, schema: ClassSchema, statistics: Mapping[str, SplitStatistics], source: SourceValues | None = None
    ) -> Iterator[Finding]:
        """Warnings: about the first suspicious tiles, then about the dataset as a whole."""
        yield from self._about_tiles
        for sentence in itertools.chain(
            self._about_duplicates(),
            self._footprints.findings(self.crs),
            self._about_values(),
            _about_classes(schema, statistics),
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

    def _about_duplicates(self) -> Iterator[str]:
        for (first, second), pairs in self._duplicates.items():
            shown = _examples([f"{a} = {b}" for a, b in pairs])
            if first == second:
                yield f"{_count(pairs, 'image')} of {first} identical to another one in it ({shown})"
            else:
                yield (
                    f"{_count(pairs, 'image')} both in {first} and in {second} ({shown}): "
                    f"scores on {second} would look better than the model is"
                )

        for (first, second), pairs in self._same_values.items():
            shown = _examples([f"{a} = {b}" for a, b in pairs])
            yield (
                f"{_count(pairs, 'image')} of {second} with the very values of another in {first}, in other bytes, or "
                f"mirrored or turned ({shown})"
                + ("" if first == second else f": scores on {second} would look better than the model is")
            )

    def _about_values(self) -> Iterator[str]:
        for split, ids in self._constant.items():
            yield f"{_count(ids, 'image')} of {split} with one value only ({_examples(ids)}): no data?"
        for split, ids in self._empty.items():
            yield f"{_count(ids, 'image')} of {split} without any data ({_examples(ids)})"
        for split, ids in self._one_value.items():
            share = 100 * len(ids) / self._labels[split]
            yield f"{_count(ids, 'label')} of {split} ({share:.1f} %) with one value only ({_examples(ids)})"


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _examples(items: list[str]) -> str:
    return ", ".join(items[:_EXAMPLES]) + (", ..." if len(items) > _EXAMPLES else "")


def _about_classes(schema: ClassSchema, statistics: Mapping[str, SplitStatistics]) -> Iterator[str]:
    for split, sums in statistics.items():
        if not sums.label_counts:
            continue
        values = set(sums.label_counts)
        if values == {0, 255}:
            names = schema.classes if schema.num_classes == 2 else (NAME, NAME)
            proposed = flow_map(dict(zip((0, 255), names, strict=True)))
            yield (
                f"the labels of {split} hold only 0 and 255, which is ignored: a 0/255 mask? Then write "
                f"label_values: {proposed} in dataset.yaml"
            )
        missing = [name for name, count in zip(schema.classes, sums.class_pixels(schema), strict=True) if not count]
        if not missing:
            continue
        means = "no model can learn them" if split == "train" else "they are left out of the scores"
        yield f"classes that never occur in {split}: {', '.join(missing)}; {means}"
        if missing == [schema.classes[0]] and schema.label_offset == 0:
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
