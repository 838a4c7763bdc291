"""Where a dataset's tiles lie: those of different splits that share ground, CRS and pixel sizes that differ."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import SPLITS
from landseg.contracts.tile import GeoKeys, Tile
from landseg.raw.compact_list import text_list
from landseg.raw.georeference.crs import crs_of, describe_crs, transform_points

_EXAMPLES = 3
_SIZE_RATIO = 1.05
"""Pixel sizes further apart than this differ."""
_WHOLE_PX = 0.99
"""Tiles that share less than a pixel, in either direction, only touch."""
_PAIRS = 1 << 18
"""Pairs of tiles that are compared at once."""
_MAX_CANDIDATES = 1 << 8
"""Tiles that one tile is compared with, per column of cells: where thousands lie at one place, some of them will do."""
_SAMPLES = 12
"""Where tiles are turned, their overlap is counted on a grid of this many points in both directions."""

_NO_CRS = -1


class Footprints:
    """Where tiles lie: some 70 bytes of memory for each that has a georeference, none for others."""

    def __init__(self) -> None:
        self._num_tiles = 0
        self._without: list[str] = []
        self._ids = text_list()
        self._splits = array("b")
        self._crs = array("i")
        self._sizes = array("i")
        self._transforms = array("d")

    def add(self, split: str, tile: Tile) -> None:
        """Note where a tile lies."""
        self._num_tiles += 1
        if tile.geo is None:
            if len(self._without) <= _EXAMPLES:
                self._without.append(f"{split}/{tile.id}")
            return
        self._ids.append(tile.id)
        self._splits.append(SPLITS.index(split))
        self._sizes.extend((tile.height, tile.width))
        self._crs.append(_NO_CRS if tile.geo.crs is None else tile.geo.crs)
        self._transforms.extend(tile.geo.transform)

    def findings(self, crs: Sequence[GeoKeys]) -> Iterator[str]:
        """What is suspicious, a sentence each; `crs` are those that tiles refer to by position."""
        if not self._crs:
            return
        same = _first_of_same(np.array(self._crs, np.int64), crs)
        yield from self._about_georeferences(same, crs)
        yield from self._about_pixel_sizes(same, crs)
        yield from self._about_overlaps(same, crs)

    def _about_georeferences(self, same: NDArray[np.int64], crs: Sequence[GeoKeys]) -> Iterator[str]:
        if num_without := self._num_tiles - len(same):
            yield f"{num_without} of {self._num_tiles} tiles have no georeference ({_first(self._without)})"
        kinds, counts = np.unique(same, return_counts=True)
        if len(kinds) > 1:
            order = np.argsort(-counts, kind="stable")
            shown = [
                f"{_name(kinds[i], crs)} ({counts[i]} tiles" + (f": {self._examples(same == kinds[i])})" if n else ")")
                for n, i in enumerate(order[: _EXAMPLES + 1].tolist())
            ]
            more = ", ..." if len(kinds) > _EXAMPLES + 1 else ""
            yield f"tiles in {len(kinds)} coordinate reference systems: {', '.join(shown)}{more}"

    def _about_pixel_sizes(self, same: NDArray[np.int64], crs: Sequence[GeoKeys]) -> Iterator[str]:
        a, b, _, d, e, _ = np.array(self._transforms).reshape(-1, 6).T
        sizes = np.sqrt(np.abs(a * e - b * d))
        units = {int(kind): _unit(int(kind), crs) for kind in np.unique(same)}
        for unit in dict.fromkeys(unit for unit, _ in units.values()):
            own = np.zeros(len(same), np.bool_)
            metres = np.zeros(len(same))
            for kind, (name, factor) in units.items():
                if name == unit:
                    own |= same == kind
                    metres[same == kind] = sizes[same == kind] * factor
            smallest, largest = metres[own].min(), metres[own].max()
            if smallest > 0 and largest > _SIZE_RATIO * smallest:
                finest, coarsest = (
                    self._examples(own & np.isclose(metres, value, rtol=_SIZE_RATIO - 1))
                    for value in (smallest, largest)
                )
                yield f"pixel sizes differ: from {smallest:.3g}{unit} ({finest}) to {largest:.3g}{unit} ({coarsest})"

    def _about_overlaps(self, same: NDArray[np.int64], crs: Sequence[GeoKeys]) -> Iterator[str]:
        corners = self._corners()
        groups = _in_one_crs(same, crs, corners)
        splits = np.array(self._splits)
        for first, second in itertools.combinations(range(len(SPLITS)), 2):
            shares = np.zeros(len(same))
            partners = np.zeros(len(same), np.int64)
            for group in np.unique(groups):
                ones, others = (np.flatnonzero((groups == group) & (splits == n)) for n in (first, second))
                if len(ones) and len(others):
                    sizes = np.array(self._sizes).reshape(-1, 2)[others]
                    shares[others], found = _largest_shares(corners[ones], corners[others], sizes)
                    partners[others] = ones[found]
            overlapping = np.flatnonzero(shares)
            if len(overlapping):
                largest = overlapping[np.argsort(-shares[overlapping], kind="stable")][:_EXAMPLES]
                shown = [f"{self._ids[i]} by {_percent(shares[i])} with {self._ids[partners[i]]}" for i in largest]
                what = f"1 {SPLITS[second]} tile overlaps" if len(overlapping) == 1 else None
                what = what or f"{len(overlapping)} {SPLITS[second]} tiles overlap"
                yield (
                    f"{what} {SPLITS[first]} tiles on the ground ({', '.join(shown)}"
                    f"{', ...' if len(overlapping) > _EXAMPLES else ''}): "
                    f"scores on {SPLITS[second]} would look better than the model is"
                )

    def _corners(self) -> NDArray[np.float64]:
        """(T, 3, 2) float64: the corners at the upper left, the upper right and the lower left; x and y."""
        a, b, c, d, e, f = np.array(self._transforms).reshape(-1, 6).T
        height, width = np.array(self._sizes, np.float64).reshape(-1, 2).T
        x = np.stack([c, c + a * width, c + b * height], axis=1)
        y = np.stack([f, f + d * width, f + e * height], axis=1)
        return np.stack([x, y], axis=2)

    def _examples(self, chosen: NDArray[np.bool_]) -> str:
        found = np.flatnonzero(chosen)[: _EXAMPLES + 1].tolist()
        return _first([f"{SPLITS[self._splits[i]]}/{self._ids[i]}" for i in found])


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")


def _first_of_same(numbers: NDArray[np.int64], crs: Sequence[GeoKeys]) -> NDArray[np.int64]:
    """For each tile the first CRS that is the same as its own, whatever it is called."""
    present = [int(number) for number in np.unique(numbers) if number >= 0]
    first: dict[int, int] = {}
    for number in present:
        known = crs_of(crs[number]) if len(present) > 1 else None
        alike = (other for other in first.values() if known is not None and crs_of(crs[other]) == known)
        first[number] = next(alike, number)
    same = numbers.copy()
    for number, other in first.items():
        same[numbers == number] = other
    return same


def _name(kind: int, crs: Sequence[GeoKeys]) -> str:
    return "none" if kind == _NO_CRS else describe_crs(crs[kind])


def _unit(kind: int, crs: Sequence[GeoKeys]) -> tuple[str, float]:
    """The unit that pixel sizes are compared in, and how many of it one of the CRS's own is."""
    known = None if kind == _NO_CRS else crs_of(crs[kind])
    if known is None:
        return "", 1.0
    return (" m", float(known.linear_units_factor[1])) if known.is_projected else ("°", 1.0)


def _in_one_crs(same: NDArray[np.int64], crs: Sequence[GeoKeys], corners: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bring corners into the CRS of most tiles, in place; for each tile the group that it can be compared in."""
    groups = same.copy()
    kinds, counts = np.unique(same[same >= 0], return_counts=True)
    if len(kinds) > 1:
        most = int(kinds[counts.argmax()])
        for kind in kinds.tolist():
            own = same == kind
            if kind != most and (moved := transform_points(crs[kind], crs[most], corners[own])) is not None:
                corners[own] = moved
                groups[own] = most
    return groups


def _largest_shares(
    first: NDArray[np.float64], second: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each tile of the second kind, how much of it lies on one of the first: the largest share.

    Every tile is entered into the cell of a grid that holds its corner; cells are as large as the largest tile, so that
    only tiles in neighbouring cells can overlap.

    Args:
        first: (M, 3, 2) corners.
        second: (N, 3, 2) corners.
        sizes: (N, 2) height and width of the second ones, in pixels.

    Returns:
        (N,) shares, 0 to 1; (N,) which of the first ones.
    """
    low, high = _bounds(first)
    _, distinct = np.unique(np.round(np.concatenate([low, high], axis=1), 6), axis=0, return_index=True)
    distinct.sort()
    low, high, first = low[distinct], high[distinct], first[distinct]
    own_low, own_high = _bounds(second)
    cell = max(float((high - low).max()), float((own_high - own_low).max()))
    shares, partners = np.zeros(len(second)), np.zeros(len(second), np.int64)
    if not cell > 0 or not np.isfinite(cell):
        return shares, partners
    origin = np.minimum(low.min(axis=0), own_low.min(axis=0))
    places = np.floor((low - origin) / cell).astype(np.int64) + 1
    own_places = np.floor((own_low - origin) / cell).astype(np.int64) + 1
    rows = int(max(places[:, 1].max(), own_places[:, 1].max())) + 2
    keys = places[:, 0] * rows + places[:, 1]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    for column in (-1, 0, 1):
        start = (own_places[:, 0] + column) * rows + own_places[:, 1]
        begin, end = np.searchsorted(keys, start - 1, "left"), np.searchsorted(keys, start + 1, "right")
        num = np.minimum(end - begin, _MAX_CANDIDATES)
        cuts = np.searchsorted(np.cumsum(num), np.arange(_PAIRS, int(num.sum()) + _PAIRS, _PAIRS))
        for part in np.split(np.arange(len(second)), np.unique(np.minimum(cuts + 1, len(second)))):
            tiles = np.repeat(part, num[part])
            if len(tiles):
                position = np.arange(len(tiles)) - np.repeat(np.cumsum(num[part]) - num[part], num[part])
                every = np.repeat((end - begin)[part] / np.maximum(num[part], 1), num[part])
                others = order[np.repeat(begin[part], num[part]) + (position * every).astype(np.int64)]
                found = _shares(first[others], second[tiles], sizes[tiles])
                best = np.lexsort((others, -found, tiles))
                best = best[np.unique(tiles[best], return_index=True)[1]]
                better = best[found[best] > shares[tiles[best]]]
                shares[tiles[better]], partners[tiles[better]] = found[better], distinct[others[better]]
    return shares, partners


def _bounds(corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(T, 2) lowest and highest x and y."""
    fourth = corners[:, 1:2] + corners[:, 2:3] - corners[:, :1]
    whole = np.concatenate([corners, fourth], axis=1)
    return whole.min(axis=1), whole.max(axis=1)


def _shares(first: NDArray[np.float64], second: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(P,) share of each second tile that lies on the first one of its pair."""
    (low, high), (own_low, own_high) = _bounds(first), _bounds(second)
    common = np.minimum(high, own_high) - np.maximum(low, own_low)
    extent = own_high - own_low
    shares = np.where((common > 0).all(axis=1), (common / extent).clip(0, 1).prod(axis=1), 0.0)
    pixel = _WHOLE_PX * extent / sizes[:, ::-1]
    shares[(common < pixel).any(axis=1)] = 0
    turned = np.flatnonzero((shares > 0) & (_is_turned(first) | _is_turned(second)))
    for start in range(0, len(turned), _PAIRS >> 6):
        part = turned[start : start + (_PAIRS >> 6)]
        shares[part] = _sampled_shares(first[part], second[part])
    return shares


def _is_turned(corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    across, down = np.abs(corners[:, 1] - corners[:, 0]), np.abs(corners[:, 2] - corners[:, 0])
    straight = (across.min(axis=1) <= 1e-6 * across.max(axis=1)) & (down.min(axis=1) <= 1e-6 * down.max(axis=1))
    return np.asarray(~straight)


def _sampled_shares(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) the share of points on a grid over the second tiles that lie on the first ones."""
    steps = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    u, v = (part.ravel() for part in np.meshgrid(steps, steps))
    points = (
        second[:, :1] + u[:, None] * (second[:, 1:2] - second[:, :1]) + v[:, None] * (second[:, 2:] - second[:, :1])
    )
    across, down = first[:, 1] - first[:, 0], first[:, 2] - first[:, 0]
    determinant = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0])[:, None]
    x, y = np.moveaxis(points - first[:, :1], 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = (x * down[:, 1:] - y * down[:, :1]) / determinant
        t = (y * across[:, :1] - x * across[:, 1:]) / determinant
    return np.asarray(((s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)).mean(axis=1), np.float64)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
