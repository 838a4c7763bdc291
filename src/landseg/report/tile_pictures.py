"""Pictures of tiles with their alternative texts, both palettes and class codes, within a size budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from landseg.report import pictures
from landseg.report.page import RGB, safe_palette

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Picture:
    """A picture as the templates show it.

    Attributes:
        kind: `photo`, `labels` or `heat`.
        own: data URI; of a label map in the dataset's colours.
        alt: what it shows, in words.
        width: in pixels.
        height: in pixels.
        safe: a label map's data URI in colours that stay distinct under colour blindness; empty for other kinds.
        codes: class codes to write over a label map, row by row of a coarse grid; empty where no class dominates.
    """

    kind: str
    own: str
    alt: str
    width: int
    height: int
    safe: str = ""
    codes: list[list[str]] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Roughly what it adds to the page."""
        return (
            2 * len(self.alt)
            + len(self.own)
            + len(self.safe)
            + 40 * sum(bool(code) for row in self.codes for code in row)
            + 400
        )


@dataclass(frozen=True)
class Studio:
    """Makes pictures of one size for one dataset.

    Attributes:
        classes: class names in class-id order.
        palette: one RGB colour per class.
        side: longest side of a picture, in pixels.
    """

    classes: Sequence[str]
    palette: Sequence[RGB]
    side: int

    def photo(self, image: NDArray[np.uint8], what: str) -> Picture:
        """An image tile, (H, W, 3) uint8, RGB."""
        height, width = pictures.shape_at(image.shape, self.side)
        return Picture("photo", pictures.photo(image, self.side), what, width, height)

    def labels(self, labels: NDArray[np.uint8], what: str) -> Picture:
        """A label map, (H, W) uint8 class ids; other values are drawn as not labelled."""
        height, width = pictures.shape_at(labels.shape, self.side)
        return Picture(
            kind="labels",
            own=pictures.label_map(labels, self.palette, self.side),
            safe=pictures.label_map(labels, safe_palette(self.palette), self.side),
            alt=f"{what}: {pictures.composition(labels, self.classes)}",
            width=width,
            height=height,
            codes=pictures.codes(labels, len(self.classes)),
        )

    def heat(self, values: NDArray[np.floating], what: str) -> Picture:
        """A map of values, (H, W) float 0-1."""
        height, width = pictures.shape_at(values.shape, self.side)
        return Picture("heat", pictures.heat(values, self.side), what, width, height)


def encode_within_budget(items: Sequence[T], encode: Callable[[T, int], tuple[R, int]], budget: int) -> list[R]:
    """Encode items at the largest picture size at which all of them fit, or at the smallest, as many as fit.

    Args:
        items: what to encode, the most important first.
        encode: turns an item and the longest side into the encoded item and its size in bytes.
        budget: bytes for all of them.

    Returns:
        The encoded items, in order; fewer than `items` only where the smallest pictures are still too large.
    """
    encoded: list[R] = []
    few = items[:: max(1, len(items) // 4)]
    for side in pictures.SIDES:
        # A few items show which sizes are not worth trying; the smallest is always tried.
        guess = sum(encode(item, side)[1] for item in few) * len(items) / max(1, len(few))
        if guess > 1.1 * budget and side != pictures.SIDES[-1]:
            continue
        encoded, used = [], 0
        for item in items:
            result, size = encode(item, side)
            used += size
            if used > budget:
                break
            encoded.append(result)
        if len(encoded) == len(items):
            break
    return encoded


@dataclass(frozen=True, eq=False)
class TilePicture:
    """One tile of a gallery. Arrays may be of any size; `landseg.report.pictures.shrink` bounds the memory they take.

    Attributes:
        tile_id: the tile's id.
        split: the split it belongs to.
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) uint8 class ids, other values where not labelled; None where no label exists.
        models: (H, W) uint8 class ids of each model, in the order of `EnsembleReport.models`.
        ensemble: (H, W) uint8 class ids.
        disagreement: (H, W) float 0-1, how much the models differ at a pixel; None for a single model.
        disagreement_share: share of the tile's pixels, 0-1, where not all models agree.
        mIoU: by model name and `ensemble`: the mIoU of this tile alone; empty where no label exists.
    """

    tile_id: str
    split: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    models: tuple[NDArray[np.uint8], ...]
    ensemble: NDArray[np.uint8]
    disagreement: NDArray[np.floating] | None = None
    disagreement_share: float | None = None
    mIoU: Mapping[str, float] = field(default_factory=dict)  # noqa: N815 - the field's standard name


@dataclass(frozen=True)
class Card:
    """A tile as the templates show it: an anchor, and (picture, name, mIoU or None) from left to right."""

    anchor: str
    tile: TilePicture
    pictures: tuple[tuple[Picture, str, float | None], ...]


@dataclass(frozen=True)
class Gallery:
    """A ranked list of tiles.

    Attributes:
        id: of the section.
        title: of the section.
        cards: (card, whether it is drawn here) in order; a tile in several galleries is drawn only in the first.
        num_left_out: how many tiles the page has no room for.
    """

    id: str
    title: str
    cards: tuple[tuple[Card, bool], ...]
    num_left_out: int


def galleries(
    lists: Sequence[tuple[str, str, Sequence[TilePicture]]],
    models: Sequence[str],
    classes: Sequence[str],
    palette: Sequence[RGB],
    budget: int,
) -> list[Gallery]:
    """Encode ranked lists of tiles; a tile in several lists is drawn once.

    Args:
        lists: (id, title, tiles) of each gallery; those without tiles are left out.
        models: the models' names.
        classes: class names in class-id order.
        palette: one RGB colour per class.
        budget: bytes for all pictures.
    """
    # Lists take turns by rank, so that a lack of room costs each of them its last tiles.
    longest = max((len(tiles) for _, _, tiles in lists), default=0)
    ranked = [tiles[rank] for rank in range(longest) for _, _, tiles in lists if rank < len(tiles)]
    unique = list({(tile.split, tile.tile_id): tile for tile in reversed(ranked)}.values())[::-1]
    anchors = {(tile.split, tile.tile_id): f"tile-{number}" for number, tile in enumerate(unique, 1)}

    def encode(tile: TilePicture, side: int) -> tuple[Card, int]:
        card = _card(tile, anchors[tile.split, tile.tile_id], models, Studio(classes, palette, side))
        return card, sum(picture.num_bytes for picture, _, _ in card.pictures)

    cards = {(card.tile.split, card.tile.tile_id): card for card in encode_within_budget(unique, encode, budget)}
    result = []
    drawn: set[str] = set()
    for id, title, tiles in lists:
        entries: list[tuple[Card, bool]] = []
        for tile in tiles:
            card = cards.get((tile.split, tile.tile_id))
            if card is not None:
                entries.append((card, card.anchor not in drawn))
                drawn.add(card.anchor)
        if tiles:
            result.append(Gallery(id, title, tuple(entries), len(tiles) - len(entries)))
    return result


def _card(tile: TilePicture, anchor: str, models: Sequence[str], studio: Studio) -> Card:
    shown: list[tuple[Picture, str, float | None]] = [(studio.photo(tile.image, f"Tile {tile.tile_id}"), "image", None)]
    if tile.truth is not None:
        shown.append((studio.labels(tile.truth, "Truth"), "truth", None))
    for name, labels in zip(models, tile.models, strict=True):
        shown.append((studio.labels(labels, f"Labels of {name}"), name, tile.mIoU.get(name)))
    if len(models) > 1:
        shown.append((studio.labels(tile.ensemble, "Labels of the ensemble"), "ensemble", tile.mIoU.get("ensemble")))
    if tile.disagreement is not None:
        what = "Map of where the models disagree"
        if tile.disagreement_share is not None:
            what += f": {100 * tile.disagreement_share:.0f} % of the pixels"
        shown.append((studio.heat(tile.disagreement, what), "disagreement", None))
    return Card(anchor, tile, tuple(shown))
