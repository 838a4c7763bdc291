"""Maps of values or colours to classes, as errors propose them for `dataset.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import yaml

from landseg.raw.labels.mapping import IGNORE

MOST_CLASSES = 64
"""With more unknown values than this, no map is proposed: they are no classes."""
NAME = "NAME"
"""Stands in a proposed map for what only the user knows; no class is likely to be called so."""
NAME_MEANS = f"a class or {IGNORE} in place of each {NAME}"
V = TypeVar("V", int, str)


def mask_map(values: Iterable[V], classes: Sequence[str]) -> dict[V, str]:
    """The map of a mask's two values, whose names are open unless there are two classes."""
    return dict(zip(values, classes if len(classes) == 2 else (NAME, NAME), strict=True))


def flow_map(entries: Mapping[int, str] | Mapping[str, str] | Mapping[int | str, str]) -> str:
    """A map on one line of YAML."""
    return str(
        yaml.safe_dump(dict(entries), default_flow_style=True, sort_keys=False, width=1 << 20, allow_unicode=True)
    ).strip()


def entries_of(entries: Mapping[int | str, str] | Mapping[str, str]) -> str:
    """The entries of such a map, without its braces: to add to a map that is there."""
    return flow_map(entries)[1:-1]
