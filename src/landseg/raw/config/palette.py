"""Colours for the classes of datasets that give none."""

from __future__ import annotations

import colorsys

_PALETTE = (
    (128, 128, 128),
    (230, 190, 80),
    (120, 200, 80),
    (200, 40, 40),
    (70, 70, 70),
    (240, 130, 40),
    (150, 90, 40),
    (245, 230, 160),
    (40, 110, 200),
    (150, 60, 170),
    (60, 180, 170),
    (250, 170, 190),
)
"""Distinct colours for datasets that name none: land-cover-like for the first nine classes."""


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Distinct RGB colours, the same for the same number of classes."""
    extra = (
        tuple(round(255 * part) for part in colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.65, 0.9))
        for index in range(max(0, num_classes - len(_PALETTE)))
    )
    return (*_PALETTE[:num_classes], *((r, g, b) for r, g, b in extra))
