"""What stored values mean: images as models see them, and labels as class ids."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ContractError


def to_model_range(values: NDArray[Any], schema: ClassSchema) -> NDArray[np.uint8]:
    """Select bands and scale them as models expect.

    Args:
        values: (H, W, B) uint8 or uint16, all bands as stored.
        schema: bands and scale.

    Returns:
        (H, W, selected bands) uint8.
    """
    selected = [band - 1 for band in schema.bands]
    if schema.scale is None:
        if values.dtype != np.uint8:
            raise ContractError("class schema", f"expected a scale for {values.dtype} images, found none")
        whole = selected == list(range(values.shape[2]))
        return values if whole else np.ascontiguousarray(values[:, :, selected])
    result = np.empty((*values.shape[:2], len(selected)), np.uint8)
    for position, table in enumerate(_scale_lookups(schema, int(np.iinfo(values.dtype).max) + 1)):
        result[:, :, position] = table[values[:, :, selected[position]]]
    return result


def to_class_ids(stored: NDArray[Any], schema: ClassSchema, where: object) -> NDArray[np.uint8]:
    """Turn stored label values into class ids.

    Args:
        stored: (H, W) uint8 or uint16.
        schema: offset, classes and ignored value.
        where: the tile, for the error line.

    Returns:
        (H, W) uint8 class ids, `ignore_index` where ignored.

    Raises:
        ContractError: a value is outside the class list.
    """
    # Values below the offset wrap around to values above every class. Lookup tables would take five times as long.
    classes: NDArray[np.uint8] = stored.astype(np.uint8) - np.uint8(schema.label_offset)
    ignored = stored == (schema.ignore_index if schema.stored_ignore is None else schema.stored_ignore)
    outside = (classes >= schema.num_classes) | (stored > 255)
    if np.any(outside & ~ignored):
        raise ContractError(where, "holds a label value outside the class list", "stage the dataset again")
    classes[ignored] = schema.ignore_index
    return classes


@functools.lru_cache(8)
def _scale_lookups(schema: ClassSchema, levels: int) -> list[NDArray[np.uint8]]:
    """One table per selected band: stored value to 0-255, rounded half up, clipped as the scale asks."""
    assert schema.scale is not None
    stored = np.arange(levels, dtype=np.float64)
    return [
        np.floor(np.clip((stored - low) * 255 / (high - low), 0, 255) + 0.5).astype(np.uint8)
        for low, high in zip(schema.scale.low, schema.scale.high, strict=True)
    ]
