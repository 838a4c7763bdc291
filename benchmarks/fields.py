"""Made-up probabilities and what their manifest says, for benchmarks where only the amount of work matters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landseg.contracts.choices import Precision
from landseg.contracts.documents import sha256_hex
from landseg.contracts.probabilities import ProbsSpec, Tta
from landseg.dataset.reader import StagedDataset
from landseg.probabilities.codec import default_dtype

_STRIDE = 4
"""Segmentation heads predict at a quarter of the resolution and upsample."""


def made_up_probs(seed: int, num_classes: int = 9, size_px: int = 512) -> NDArray[np.float32]:
    """Smooth regions with undecided borders.

    Returns:
        (C, H, W) float32, sums to 1 over C; of nine classes, the most probable one has about 0.85 in the mean.
    """
    return softmax(made_up_logits(seed, num_classes, size_px))


def made_up_logits(seed: int, num_classes: int, size_px: int) -> NDArray[np.float32]:
    """The logits of :func:`made_up_probs`, (C, H, W) float32."""
    rng = np.random.default_rng(seed)
    side = size_px // _STRIDE
    logits = np.empty((num_classes, size_px, size_px), np.float32)
    for plane in logits:
        coarse = 6 * _noise(rng, side, 8) + 1.5 * _noise(rng, side, 40) + 0.3 * _noise(rng, side, side)
        plane[...] = np.asarray(Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BILINEAR))
    return logits


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities, (C, H, W) float32, from logits of the same shape."""
    raised = np.exp(logits - logits.max(axis=0))
    probs: NDArray[np.float32] = raised / raised.sum(axis=0)
    return probs


def made_up_spec(dataset: StagedDataset, model: str, *, tta: Tta = "none", precision: Precision = "fp32") -> ProbsSpec:
    """What the manifest says that probabilities depend on; the checksums of the model are made up."""
    return ProbsSpec(
        model=model,
        model_sha256=sha256_hex(model.encode()),
        checkpoint_sha256=sha256_hex(model.encode()),
        dataset_id=dataset.manifest.dataset_id,
        dataset_sha256=dataset.sha256,
        classes=dataset.schema.classes,
        dtype=default_dtype(dataset.schema.num_classes),
        tta=tta,
        precision=precision,
    )


def _noise(rng: np.random.Generator, side: int, cells: int) -> NDArray[np.float32]:
    values = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(values.resize((side, side), Image.Resampling.BICUBIC))
