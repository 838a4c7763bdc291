"""Images and labels in one folder, told apart by the files' names: `12_sat.jpg` and `12_mask.png`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from landseg.raw.layout.folder_names import Clarity, plainest, read_folder_name
from landseg.raw.layout.suffixes import SUFFIXES, split_suffix
from landseg.raw.sources.source import SourceFile

SEPARATOR = re.compile(r"[_\-. ]+")

Divided = dict[str, Sequence[SourceFile]]


def role_of_part(part: str) -> str:
    """The role that a part of a file name tells of, "" if none: `images` for `sat`, `labels` for `labelIds`."""
    roles, clarity = plainest(list(read_folder_name(part).roles))
    return roles.pop() if len(roles) == 1 and clarity != Clarity.MENTIONED else ""


def roles_by_name(files: Sequence[SourceFile]) -> Divided | None:
    """Files by role, where the last part of every name tells it, or the first one; else None."""
    divided: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        parts = SEPARATOR.split(split_suffix(file.path.rpartition("/")[2])[0])
        role = role_of_part(parts[-1]) or role_of_part(parts[0])
        if not role:
            return None
        divided[role].append(file)
    return dict(divided) if "images" in divided else None


def roles_by_suffix(files: Sequence[SourceFile]) -> Divided | None:
    """Files by role, where each image has a PNG of the same name, or of that and one ending (`12_m`); else None."""
    by_suffix: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        by_suffix[split_suffix(file.path)[1]].append(file)
    labels = by_suffix.pop(".png", [])
    suffix, images = next(iter(by_suffix.items()), ("", []))
    if len(by_suffix) != 1 or len(images) != len(labels) or suffix not in _IMAGES_ONLY:
        return None
    stems = {split_suffix(file.path)[0] for file in images}
    first = split_suffix(labels[0].path)[0]
    ending = next((first[end:] for end in range(len(first), 0, -1) if first[:end] in stems), None)
    if ending is None or {f"{stem}{ending}" for stem in stems} != {split_suffix(file.path)[0] for file in labels}:
        return None
    return {"images": images, "labels": labels}


_IMAGES_ONLY = {".jpg", ".jpeg", *SUFFIXES["images"]} - {".png"}
