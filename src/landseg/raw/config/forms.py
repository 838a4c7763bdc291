"""How fields of `dataset.yaml` may be written: what people write becomes the one form that the fields have.

Each raises ValueError where a value cannot be meant; what is of another type is left to the field's own check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from landseg.raw.config.problems import flow
from landseg.raw.labels.mapping import parse_colour


def classes_by_id(value: Any) -> Any:
    """Classes in order, from a mapping of ids 0, 1, … to names."""
    if not isinstance(value, dict) or not all(type(key) is int or str(key).isdecimal() for key in value):
        return value
    ids = {int(key): name for key, name in value.items()}
    if sorted(ids) == list(range(len(value))):
        return tuple(ids[index] for index in range(len(ids)))
    if not all(isinstance(name, str) for name in ids.values()):
        return value
    lines = f"classes: {flow([ids[index] for index in sorted(ids)])}"
    is_from_1 = sorted(ids) == list(range(1, len(value) + 1))
    lines += " and label_offset: 1" if is_from_1 else f" and label_values: {flow(dict(sorted(ids.items())))}"
    raise ValueError(f"expected ids from 0 without gaps, found {', '.join(map(str, sorted(ids)[:5]))}: write {lines}")


def as_colour(item: Any) -> Any:
    """A colour as three numbers; what is none is for the field's type to refuse."""
    if item is None:
        raise ValueError("expected a colour, found nothing: write '#ff0000' in quotes, as # begins a comment")
    if isinstance(item, str):
        return parse_colour(item)
    return tuple(item) if isinstance(item, list) else item


def check_band_names(value: Sequence[int | str], most: int) -> None:
    """Check that bands are numbers from 1 to `most`, or names of files for a tile's id."""
    numbers = [band for band in value if isinstance(band, int)]
    files = [band for band in value if isinstance(band, str)]
    if numbers and files:
        raise ValueError("expected numbers of bands or names of files, not both")
    if any(not 1 <= band <= most for band in numbers):
        raise ValueError(f"expected numbers of bands from 1 to {most}")
    if any(band.count("{id}") != 1 for band in files):
        raise ValueError("expected numbers such as [3, 2, 1], or files' names with {id} such as '{id}_B04.tif'")
    if 0 < sum("{id}" in band.rpartition("/")[0] for band in files) < len(files):
        raise ValueError("expected {id} in the names of all files, or of the folder around all: '{id}/B04.tif'")
    if 0 < sum("/" in band for band in files) < len(files) or any(band.startswith(("/", ".")) for band in files):
        example = "['red/{id}.tif', 'nir/{id}.tif']"
        raise ValueError(f"expected files' names alone, or each after its folder's name, such as {example}")


def nodata_values(value: Any) -> Any:
    """Values of pixels without data, as a number or a tuple of them; None for NaN, which never has data anyway."""
    if str(value).lower() in ("nan", ".nan"):
        return None
    values = value if isinstance(value, list) else [value]
    numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in values)
    if not values or not (numbers or value in ("none", None)):
        raise ValueError("expected a number, a list of numbers, or none")
    return tuple(value) if isinstance(value, list) else value
