"""What each way to store probabilities does to labels, by the number of classes and how decided the models are.

The more classes share a pixel, the smaller the probabilities that decide the label, and the coarser a fixed step is in
comparison. Pairs of made-up models are stored in each way, and the ensemble's labels are compared with those of float32
averaging. :data:`landseg.probabilities.codec.FEW_CLASSES` rests on this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.fields import made_up_logits, softmax
from landseg.ensemble.averaging import Average, Labels
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES, FEW_CLASSES, Dtype, Probs

NUM_CLASSES = (2, 5, 9, 16, 24, 32, 40, 48, 64, 100, 150, 200)
TOP_PROBS = {"sharp": 0.9, "trained": 0.75, "undecided": 0.5, "diffuse": 0.25}
"""Mean probability of the most probable class."""
UNTRAINED = 3.0
"""The same of models that have hardly learnt anything, in units of 1 / classes."""
SIZE_PX = 256
TARGET = 0.9999
_SHARED = 0.9
"""Share of the logits' variance that both models of a pair have in common."""


def run() -> dict[str, Any]:
    """Measure."""
    rows = [
        {"classes": num_classes, "models": name, "mean_top_probability": top, **_measure(pair)}
        for num_classes in NUM_CLASSES
        for name, top, pair in _pairs(num_classes)
    ]
    return {
        "what": "ensemble labels as in float32, by dtype, number of classes and decidedness of the models",
        "target": TARGET,
        "companded_up_to_classes": FEW_CLASSES,
        "table": rows,
        "machine": machine.describe(),
    }


def _pairs(num_classes: int) -> Iterator[tuple[str, float, list[Probs]]]:
    """Pairs of models with (C, H, W) float32 probabilities, and their mean top probability."""
    common, *own = (made_up_logits(seed, num_classes, SIZE_PX) for seed in range(3))
    logits = [_SHARED**0.5 * common + (1 - _SHARED) ** 0.5 * noise for noise in own]
    for name, top in (*TOP_PROBS.items(), ("untrained", UNTRAINED / num_classes)):
        # With few classes, hardly any pixel is as undecided as some of the cases.
        if 1.5 / num_classes <= top < 1 and (name != "untrained" or top < min(TOP_PROBS.values())):
            pair = [_with_top(one, top) for one in logits]
            yield name, round(float(np.mean([probs.max(axis=0).mean() for probs in pair])), 3), pair


def _with_top(logits: NDArray[np.float32], top: float) -> Probs:
    """The softmax of logits times the factor that brings the mean top probability to `top`."""
    low, high = 0.0, 100.0
    sample = logits[:, ::8, ::8]
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if softmax(sample * middle).max(axis=0).mean() < top else (low, middle)
    return softmax(logits * np.float32(low))


def _measure(pair: list[Probs]) -> dict[str, Any]:
    exact = _labels(pair, DTYPES["float32"])
    agreement, share = {}, {}
    for name in ("companded", "uint8", "uint12", "uint16", "float16"):
        dtype = DTYPES[name]
        agreement[name] = round(float((_labels(pair, dtype) == exact).mean()), 6)
        stored = codec.quantize(pair[0], dtype)
        share[name] = round(len(codec.encode_tile(stored, stored.shape[1:])) / pair[0].nbytes, 4)
    return {"label_agreement": agreement, "share_of_float32": share}


def _labels(pair: list[Probs], dtype: Dtype) -> Labels:
    average = Average((dtype,) * len(pair), (1.0,) * len(pair), (1.0,) * len(pair))
    return average.labels([codec.quantize(probs, dtype) for probs in pair], [tuple(range(len(pair)))])[0]
