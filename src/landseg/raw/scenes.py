"""Scenes, images too large for a model: cut into overlapping tiles, which :mod:`landseg.ensemble.maps` joins."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of a scene, in pixels."""

    y: int
    x: int
    height: int
    width: int


def cut(height: int, width: int, tile_px: int, overlap_px: int) -> list[Window]:
    """Windows that cover a scene, row by row.

    Neighbours overlap by `overlap_px`, the last ones of a row or column by more: they are moved back so that every
    window lies inside the scene at its full size.
    """
    return [
        Window(y, x, min(tile_px, height), min(tile_px, width))
        for y in _starts(height, tile_px, overlap_px)
        for x in _starts(width, tile_px, overlap_px)
    ]


def _starts(length: int, tile_px: int, overlap_px: int) -> list[int]:
    if length <= tile_px:
        return [0]
    inner = range(0, length - tile_px, tile_px - overlap_px)
    return [*inner, length - tile_px]


def tile_id(scene_id: str, window: Window) -> str:
    """The id of a tile cut from a scene; sorting by it goes through the scene row by row."""
    return f"{scene_id}_y{window.y:06}_x{window.x:06}"


def shifted(
    transform: tuple[float, float, float, float, float, float], rows: int, columns: int
) -> tuple[float, float, float, float, float, float]:
    """The transform of a window that begins `rows` and `columns` further on."""
    a, b, c, d, e, f = transform
    return a, b, c + a * columns + b * rows, d, e, f + d * columns + e * rows
