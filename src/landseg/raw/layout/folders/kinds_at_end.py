"""Files of one folder of which every tile has several, told apart by what their names end with: `a_data`, `a_mask`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from landseg.contracts.errors import printable
from landseg.raw.layout.folders.names import PICTURE_WORDS, words
from landseg.raw.layout.folders.roles_by_file import SEPARATOR, SEPARATORS, role_of_part
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.sources.source_file import SourceFile

_FEWEST_TILES, _MOST_KINDS = 2, 8


def endings_advice(folders: Sequence[Sequence[SourceFile]]) -> str:
    """How to tell images from labels by the ends of their names; "" where those do not come back for every tile.

    Args:
        folders: the files of each.
    """
    found = {frozenset(_endings(files)) for files in folders}
    endings = sorted(found.pop()) if len(found) == 1 else []
    if not endings:
        return ""
    labels = [ending for ending in endings if _role(ending) == "labels"]
    others = [ending for ending in endings if ending not in labels]
    if "" in others:  # images that add nothing to the tile's name
        label, *rest = sorted(filter(None, endings), key=lambda ending: (ending not in labels, _is_picture(ending)))
        move = f", and move the files whose names end with {_listed(rest)} out, or the other way round" if rest else ""
        return f"write label_suffix: {printable(label)} in dataset.yaml{move}"
    image, *_ = [ending for ending in others if _role(ending) == "images"] or others or labels[-1:]
    label = next(ending for ending in [*labels, *others] if ending != image)
    fields = f"image_suffix: {printable(image)} and label_suffix: {printable(label)}"
    more = "" if labels and {*endings} == {image, label} else f", or others of {_listed(endings)}"
    return f"write {fields} in dataset.yaml{more}"


def _is_picture(ending: str) -> bool:
    return not PICTURE_WORDS.isdisjoint(words(ending))


def _listed(endings: Sequence[str]) -> str:
    return printable(", ".join(endings))


def _role(ending: str) -> str:
    roles = {role_of_part(part) for part in SEPARATOR.split(ending) if part} - {""}
    return "labels" if "labels" in roles else roles.pop() if roles else ""


def _endings(files: Sequence[SourceFile]) -> set[str]:
    """What the names of every tile's files add to the tile's; nothing where tiles differ."""
    stems = [split_suffix(file.path.rpartition("/")[2])[0] for file in files]
    stems.sort(key=lambda stem: SEPARATOR.split(stem))  # a tile's files side by side: 1, 1_mask, 10, 10_mask
    for count in range(2, _MOST_KINDS + 1):
        if len(stems) % count or len(stems) < count * _FEWEST_TILES:
            continue
        groups = [stems[start : start + count] for start in range(0, len(stems), count)]
        first = _added(groups[0])
        if len(first) == count and all(_added(group) == first for group in groups):
            return first
    return set()


def _added(stems: Sequence[str]) -> set[str]:
    """What some names add to the one that they share, whole parts of them; nothing where they share none."""
    shared = os.path.commonprefix(stems)  # noqa: RUF071 (names, no paths)
    if shared not in stems:
        end = max((match.start() for match in SEPARATOR.finditer(shared)), default=0)
        shared = shared[:end]
    added = {stem[len(shared) :] for stem in stems}
    return added if shared and all(not ending or ending[0] in SEPARATORS for ending in added) else set()
