"""How often intervals hold the true score: tiles of one scene resemble each other, so tiles and scenes are compared.

Made-up scenes of 16 tiles: a scene has a mix of classes and a difficulty of its own, its tiles vary around them. The
true mIoU is that of very many scenes. Counted is how often the nominal 95 % interval of a few scenes holds it: with
tiles resampled, with scenes resampled, and by percentiles of the resampled scenes in place of Student's t.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.scoring.intervals import CONFIDENCE, Interval, area_scores, interval, resample

NUM_SCENES = (3, 5, 10, 20, 40)
NUM_TILES = 16
TILE_PX = 10_000
_LOGITS = np.array([2.2, 1.6, 1.2, 0.8, 0.4])
"""Of the share of a class's pixels that is found, in the mean over scenes."""
_MIX = 0.6
"""How far mixes of classes differ between scenes: the parameter of a Dirichlet distribution."""
_CLASSES = "abcde"


def run(repeats: int = 200) -> dict[str, Any]:
    """Simulate."""
    rng = np.random.default_rng(0)
    true = _miou(simulate(rng, 20_000, 4).sum(axis=(0, 1)))
    return {
        "what": "share of nominal 95 % intervals that hold the true mIoU, by the number of scenes",
        "unit": "share",
        "nominal": CONFIDENCE,
        "true_mIoU": round(true, 4),
        "repeats": repeats,
        "coverage": {number: coverage(rng, number, true, repeats) for number in NUM_SCENES},
    }


def simulate(rng: np.random.Generator, num_scenes: int, num_tiles: int) -> NDArray[np.int64]:
    """(S, T, 3, C) int64 areas of the tiles of scenes, as :func:`landseg.scoring.confusion.class_areas` counts them."""
    num_classes = len(_CLASSES)
    shape = (num_scenes, num_tiles, num_classes)
    mixes = rng.dirichlet(np.full(num_classes, _MIX), num_scenes)
    amounts = rng.gamma(np.broadcast_to(np.maximum(30 * mixes, 1e-3)[:, None], shape)) + 1e-12
    pixels = rng.multinomial(TILE_PX, amounts / amounts.sum(axis=-1, keepdims=True))
    logits = _LOGITS + 0.8 * rng.normal(size=(num_scenes, 1, 1)) + 0.6 * rng.normal(size=(num_scenes, 1, num_classes))
    logits = logits + 0.3 * rng.normal(size=shape)
    right = rng.binomial(pixels, 1 / (1 + np.exp(-logits)))
    predicted = right.copy()
    for class_id in range(num_classes):
        others = np.full(num_classes, 1 / (num_classes - 1))
        others[class_id] = 0
        predicted += rng.multinomial((pixels - right)[..., class_id], others)
    return np.stack([right, pixels, predicted], axis=2).astype(np.int64)


def coverage(rng: np.random.Generator, num_scenes: int, true: float, repeats: int) -> dict[str, float]:
    """How often each kind of interval holds the true mIoU, and the mean width of those over scenes."""
    hits = dict.fromkeys(("tiles", "scenes", "scenes_by_percentiles"), 0)
    width = 0.0
    for _ in range(repeats):
        areas = simulate(rng, num_scenes, NUM_TILES)
        tiles, scenes = areas.reshape(-1, *areas.shape[2:]), areas.sum(axis=1)
        ends, drawn = _interval(scenes)
        width += ends[1] - ends[0]
        found = {
            "tiles": _interval(tiles)[0],
            "scenes": ends,
            "scenes_by_percentiles": tuple(np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])),
        }
        for kind, (low, high) in found.items():
            hits[kind] += low <= true <= high
    return {**{kind: round(number / repeats, 3) for kind, number in hits.items()}, "width": round(width / repeats, 3)}


def _interval(units: NDArray[np.int64]) -> tuple[Interval, NDArray[np.float64]]:
    """The interval of the mIoU of (U, 3, C) areas, and the resamples' mIoU."""
    sums = resample(units)
    assert sums is not None
    drawn = area_scores(sums, _CLASSES)["mIoU"]
    ends = interval(_miou(units.sum(axis=0)), drawn, len(units))
    assert ends is not None
    return ends, drawn


def _miou(areas: NDArray[np.int64]) -> float:
    return float(area_scores(areas.astype(np.float64), _CLASSES)["mIoU"])
