"""Images and labels in one folder, told apart by the files' names: `12_sat.jpg` and `12_mask.png`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set

from landseg.raw.compact_list import CompactList
from landseg.raw.config.files import FileFields
from landseg.raw.layout.folders.names import Clarity, plainest, read_folder_name
from landseg.raw.layout.suffixes import SUFFIXES, split_suffix
from landseg.raw.sources.source_file import SourceFile, file_list

SEPARATORS = "_-. "
SEPARATOR = re.compile(r"[_\-. ]+")

_SURE = 3
_MOST_KINDS = 8
_HAS_LETTER = re.compile(r"[^\W\d_]").search

Divided = dict[str, Sequence[SourceFile]]


def role_of_part(part: str) -> str:
    """The role that a part of a file name tells of, "" if none: `images` for `sat`, `labels` for `labelIds`."""
    roles, clarity = plainest(list(read_folder_name(part).roles))
    return roles.pop() if len(roles) == 1 and clarity != Clarity.MENTIONED else ""


def without_infix(stem: str, infix: str) -> str | None:
    """A stem without a part that stands between separators, nor one of them; None where it has no such part."""
    found = _part(infix).search(stem)
    return None if found is None else (stem[: found.start()] + stem[found.end() :]).strip(SEPARATORS) or None


def with_infix(stem: str, infix: str, other: str) -> str:
    """A stem with another part in the place of one that stands between separators."""
    return _part(infix).sub(lambda found: other + found[1], stem, count=1)


def ending_of(stem: str, ids: Set[str]) -> str | None:
    """What a stem adds to the longest of some ids that it begins with; None where it begins with none of them."""
    return next((stem[end:] for end in range(len(stem), 0, -1) if stem[:end] in ids), None)


def _part(infix: str) -> re.Pattern[str]:
    around = re.escape(SEPARATORS)
    return re.compile(rf"(?<![^{around}]){re.escape(infix)}([{around}]+|$)")


def kinds_in_the_middle(folders: Sequence[Sequence[SourceFile]]) -> list[str]:
    """What one part in the middle of the files' names is, where that alone tells kinds of files apart; else nothing.

    Of `a_s2_1`, `a_lc_1`, `a_s2_2`, ... these are lc and s2: every name without its part occurs once with each of them.
    """

    def names() -> Iterator[list[str]]:
        for files in folders:
            for file in files:
                yield SEPARATOR.split(split_suffix(file.path.rpartition("/")[2])[0])

    told: dict[int, set[str]] = {index: set() for index in range(1, len(next(names(), [])) - 1)}
    for parts in names():  # there may be millions: most parts take too many values, which soon shows
        for index in [index for index in told if index >= len(parts) - 1]:
            del told[index]
        for index, found in list(told.items()):
            found.add(parts[index])
            if len(found) > _MOST_KINDS or not _HAS_LETTER(parts[index]):
                del told[index]
        if not told:
            return []
    candidates = [index for index, found in told.items() if len(found) > 1]
    if len(candidates) != 1:
        return []
    index = candidates[0]
    groups: dict[str, set[str]] = defaultdict(set)
    for parts in names():
        groups["_".join((*parts[:index], "", *parts[index + 1 :]))].add(parts[index])
    is_complete = len(groups) >= _SURE and all(kinds == told[index] for kinds in groups.values())
    return sorted(told[index]) if is_complete else []


def roles_by_name(files: Sequence[SourceFile]) -> Divided | None:
    """Files by role, where the last part of every name tells it, or the first one; else None."""
    divided: dict[str, CompactList[SourceFile]] = defaultdict(file_list)
    for file in files:
        parts = SEPARATOR.split(split_suffix(file.path.rpartition("/")[2])[0])
        role = role_of_part(parts[-1]) or role_of_part(parts[0])
        if not role:
            return None
        divided[role].append(file)
    return dict(divided) if "images" in divided else None


def roles_in_the_middle(files: Sequence[SourceFile]) -> Divided | None:
    """Files by role, where one part in the middle of their names tells it: `tile_img_0`, `tile_mask_0`; else None."""
    by_role = {role_of_part(kind): kind for kind in kinds_in_the_middle([files])}
    if by_role.keys() != set(SUFFIXES):
        return None
    divided: dict[str, CompactList[SourceFile]] = defaultdict(file_list)
    for file in files:
        stem = split_suffix(file.path.rpartition("/")[2])[0]
        divided["images" if without_infix(stem, by_role["images"]) is not None else "labels"].append(file)
    return dict(divided)


def roles_by_affixes(files: Sequence[SourceFile], config: FileFields) -> Divided | None:
    """Files by role, as the prefixes and suffixes say that `dataset.yaml` gives; None without both roles."""
    of_images = (config.image_prefix, config.image_suffix, config.image_infix)
    of_labels = (config.label_prefix, config.label_suffix, config.label_infix)
    if not any((*of_images, *of_labels)):
        return None
    divided: dict[str, CompactList[SourceFile]] = defaultdict(file_list)
    for file in files:
        name = unicodedata.normalize("NFC", file.path.rpartition("/")[2])
        is_label = _has(name, of_labels) if any(of_labels) else not _has(name, of_images)
        divided["labels" if is_label else "images"].append(file)
    return dict(divided) if len(divided) == len(SUFFIXES) else None


def roles_by_infix(files: Sequence[SourceFile], config: FileFields) -> Divided:
    """The files that have the infix of images or labels that `dataset.yaml` gives; the others are left out."""
    infixes = {"images": config.image_infix, "labels": config.label_infix}
    divided: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        name = unicodedata.normalize("NFC", file.path.rpartition("/")[2])
        role = next((role for role, infix in infixes.items() if infix and _has(name, ("", "", infix))), "")
        if role:
            divided[role].append(file)
    return dict(divided)


def _has(name: str, affixes: tuple[str, str, str]) -> bool:
    prefix, suffix, infix = affixes
    if infix and without_infix(split_suffix(name)[0], infix.strip(SEPARATORS)) is None:
        return False
    return name.startswith(prefix) and (name.endswith(suffix) or split_suffix(name)[0].endswith(suffix))


def roles_by_suffix(files: Sequence[SourceFile]) -> Divided | None:
    """Files by role, where each image has a PNG of the same name, or of that and one ending (`12_m`); else None."""
    by_suffix: dict[str, CompactList[SourceFile]] = defaultdict(file_list)
    for file in files:
        by_suffix[split_suffix(file.path)[1]].append(file)
    labels = by_suffix.pop(".png", file_list())
    suffix, images = next(iter(by_suffix.items()), ("", file_list()))
    if len(by_suffix) != 1 or len(images) != len(labels) or suffix not in _IMAGES_ONLY:
        return None
    stems = {split_suffix(file.path)[0] for file in images}
    ending = ending_of(split_suffix(labels[0].path)[0], stems)
    if ending is None or {f"{stem}{ending}" for stem in stems} != {split_suffix(file.path)[0] for file in labels}:
        return None
    return {"images": images, "labels": labels}


_IMAGES_ONLY = {".jpg", ".jpeg", *SUFFIXES["images"]} - {".png"}
