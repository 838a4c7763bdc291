"""The table of areas: how much of a split each class covers."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from landseg.report import figures
from landseg.report.figures import ENSEMBLE, TRUTH, Mark
from landseg.report.page import percent

_M2_PER_HECTARE = 10_000


@dataclass(frozen=True)
class ClassAreas:
    """How much of a split each class covers.

    Attributes:
        split: the split.
        predicted_px: pixels that the ensemble assigned to each class, in class order.
        true_px: scored pixels of each class in the truth; None where no labels exist.
        compared_px: pixels that the ensemble assigned to each class among the scored ones; None where no labels exist.
        pixel_area_m2: ground area of one pixel, if the tiles' transforms are known and agree.
        disagreement_share: share of the split's pixels, 0-1, where not all models agree; None for a single model.
    """

    split: str
    predicted_px: tuple[int, ...]
    true_px: tuple[int, ...] | None = None
    pixel_area_m2: float | None = None
    disagreement_share: float | None = None
    compared_px: tuple[int, ...] | None = None


@dataclass(frozen=True)
class AreaRow:
    """A class in the table of areas; shares are of the scored pixels where there are any, else of all."""

    class_id: int
    pixels: int
    share: float
    true_share: float | None
    hectares: float | None
    dots: Markup


def area_rows(area: ClassAreas) -> tuple[list[AreaRow], Markup]:
    """One row per class in falling order of area, and the ruler of their chart."""
    counted = area.predicted_px if area.compared_px is None else area.compared_px
    shares = [pixels / max(1, sum(counted)) for pixels in counted]
    true = None if area.true_px is None else [pixels / max(1, sum(area.true_px)) for pixels in area.true_px]
    axis = figures.axis([*shares, *(true or ())], low=0)
    rows = []
    for class_id, pixels in enumerate(area.predicted_px):
        marks = [] if true is None else [Mark("truth", TRUTH, true[class_id])]
        rows.append(
            AreaRow(
                class_id=class_id,
                pixels=pixels,
                share=shares[class_id],
                true_share=None if true is None else true[class_id],
                hectares=None if area.pixel_area_m2 is None else pixels * area.pixel_area_m2 / _M2_PER_HECTARE,
                dots=figures.dots([*marks, Mark("ensemble", ENSEMBLE, shares[class_id])], axis, percent),
            )
        )
    return sorted(rows, key=lambda row: -row.pixels), figures.ruler(axis, lambda value: percent(value, 0))
