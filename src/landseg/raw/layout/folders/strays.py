"""What to say of files with pixels that are in no folder of a split's images or labels: one line for each kind."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import DataError, printable
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.band_names import CHOICE, bands_per_folder, written_bands
from landseg.raw.layout.folders.kinds_at_end import endings_advice
from landseg.raw.layout.folders.names import PICTURE_WORDS, ROLES, SPLIT_WORDS, read_folder_name, similar_name, words
from landseg.raw.layout.folders.roles_by_file import kinds_in_the_middle, role_of_part, without_infix
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, split_suffix
from landseg.raw.sources.source import LAYOUT_HINT, Source
from landseg.raw.sources.source_file import SourceFile

_SHOWN = 3
_MOST_NAMES = 8
_is_unlabelled = re.compile(r"unlabell?ed|unsup|nolabel|no_label", re.IGNORECASE).search
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".7z", ".rar")
_PACKERS = (".gz", ".bz2", ".xz")


@dataclass(frozen=True)
class Stray:
    """A folder whose files are not used.

    Attributes:
        kind: its name says two things; a split but no role; a role but no split; neither; dataset.yaml names another
            folder; or they are labels beside images whose labels have a folder of their own.
        path: relative to the source.
        files: those with pixels.
        says: what its name does say.
    """

    kind: Literal["unclear", "no role", "no split", "unrelated", "not named", "second labels"]
    path: str
    files: Sequence[SourceFile]
    says: str = ""


def conflict(source: Source, split: str, role: str, places: Sequence[str], bands: Sequence[str]) -> Finding:
    """The files of one split and role lie in two places; `bands`: what to write where each holds one band."""
    what = f"{role} of {split}" if split else role
    found = " and ".join(printable(place) or "the folder itself" for place in places[:_SHOWN])
    action = f"{_choice(split, role, places)}, or move all but one out of the dataset"
    if bands:
        action = f"write {written_bands(bands)} in dataset.yaml, {CHOICE}"
    return Finding.of(DataError(source.uri, f"expected one folder with the {what}, found {found}", action), split)


def _choice(split: str, role: str, places: Sequence[str]) -> str:
    """How to take one of several folders, or all where they are called as splits."""
    of_split = [next((name for name in place.split("/") if _says_split(name)), "") for place in places]
    others = [[name for name in place.split("/") if not _says_split(name)] for place in places]
    if split and all(of_split) and all(names == others[0] for names in others):
        if unlabelled := [name for name in of_split if _is_unlabelled(name)]:
            rest = [name for name in of_split if name not in unlabelled]
            fields = ", ".join(
                f"{key}: {_listed(names)}" for key, names in ((split, rest), ("test", unlabelled)) if names
            )
            return f"write splits: {{{fields}}} in dataset.yaml, which predicts what has no labels"
        return f"write splits: {{{split}: [{', '.join(map(printable, of_split))}]}} in dataset.yaml to take all of them"
    found = [last for names in others if (last := _telling(names, others))]
    if role == "labels":  # rather those than pictures of them
        found.sort(key=lambda last: not PICTURE_WORDS.isdisjoint(words(last)))
    first, *rest = (f"{role[:-1]}_folder: {_in_any_split(last)}" for last in found[:_SHOWN] or [places[0] or "."])
    return f"write {first} in dataset.yaml" + "".join(f", or {other}" for other in rest)


def _telling(names: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    """The last names of a folder's path that the other paths do not have."""
    for count in range(1, len(names) + 1):
        last = "/".join(names[-count:])
        if last and sum(f"/{last}/" in f"/{'/'.join(other)}/" for other in others) == 1:
            return last
    return ""


def _in_any_split(name: str) -> str:
    """A folder's name as dataset.yaml has it, with `*` in place of the split that its last part tells with its role."""
    head, slash, last = name.rpartition("/")
    split = next((word for word in words(last) if word in SPLIT_WORDS), "")
    if not split or not read_folder_name(last).roles:
        return printable(name)
    start = last.lower().index(split)
    return f'"{printable(head + slash + last[:start])}*{printable(last[start + len(split) :])}"'


def _listed(names: Sequence[str]) -> str:
    return printable(names[0]) if len(names) == 1 else f"[{', '.join(map(printable, names))}]"


def _says_split(name: str) -> bool:
    said = read_folder_name(name)
    return bool(said.splits) and not said.roles


def stray_findings(
    source: Source, strays: Iterable[Stray], *, has_vrt: bool = False, images_in: str = "", annotated: str = ""
) -> list[Finding]:
    """One finding for each kind of strays, with counts and the first folders.

    Args:
        source: the source.
        strays: the folders.
        has_vrt: whether an image is a VRT, which may refer to any of them.
        annotated: what to do about annotations of images that have no other labels; "" where not.
        images_in: the name of the folder of the images, where images and labels are found; "" where not.
    """
    by_kind: dict[tuple[str, str], list[Stray]] = {}
    for stray in strays:
        near = next((name for name in map(similar_name, stray.path.split("/")) if name), "")
        kind = "misspelt" if stray.kind == "unrelated" and near else stray.kind
        by_kind.setdefault((kind, "" if kind == "no split" else stray.says), []).append(stray)
    return [_finding(source, kind, held, has_vrt, images_in, annotated) for (kind, _), held in sorted(by_kind.items())]


def _finding(source: Source, kind: str, strays: list[Stray], has_vrt: bool, images_in: str, annotated: str) -> Finding:
    path = strays[0].path
    says = " and ".join(sorted({stray.says for stray in strays}))
    found = counted(file for stray in strays for file in stray.files)
    if kind in ("unrelated", "not named", "second labels"):
        folders = ", ".join(printable(stray.path) or "the dataset's own folder" for stray in strays[:_SHOWN])
        more = f" and {len(strays) - _SHOWN} more" if len(strays) > _SHOWN else ""
        unless = ", unless a VRT refers to them" if has_vrt else ""
        sentence = f"{found} outside of the splits not used{unless}: in {folders}{more}"
        if kind == "not named":
            sentence = f"{found} not used{unless}, as dataset.yaml names others: in {folders}{more}"
        if kind == "second labels":
            sentence = (
                f"{found} beside images not used{unless}, as the labels have a folder of their own: in {folders}{more}"
            )
        return Finding("", sentence, severity="warning")
    more = f" (and in {len(strays) - 1} more folders)" if len(strays) > 1 else ""
    name = next((name for name in path.split("/") if similar_name(name)), "")
    rename = f"rename {printable(name)} to {similar_name(name)}" if name else ""
    if kind == "unclear":
        problem = f"expected a path that says one thing, found {says} in it"
        field = f"splits: {{{says.partition(' ')[0]}: {printable(path)}}}"
        if says == " and ".join(ROLES):
            field = f"label_folder: {printable(path)} or image_folder: {printable(path)}"
        action = f"rename one of its folders, or write {field} in dataset.yaml"
    elif kind == "no role":
        problem = "expected images or labels in this split's folders"
        name = _last(strays[0])
        field = f"image_folder: {name} or label_folder: {name} in dataset.yaml"
        if images_in:
            field = f"image_folder: {images_in} in dataset.yaml, which leaves out other folders"
        by_names = bands_per_folder([file for stray in strays for file in stray.files])
        kinds = kinds_in_the_middle([stray.files for stray in strays])
        if not by_names and kinds and _are_kinds(kinds, strays):
            by_names = infixes_advice(kinds)
        endings = "" if by_names or images_in else endings_advice([stray.files for stray in strays])
        if not by_names and not images_in:
            by_names = _folders_advice(strays) or _folder_around(strays)
        action = endings or annotated or rename or by_names or f"write {field}, or move it out of the folder of {says}"
    elif kind == "no split":
        problem = f"expected {says} in the folder of a split ({', '.join(SPLITS)})"
        action = rename or "move the folder into that of its split, or out of the dataset"
    else:
        problem, action = "expected folders of splits, images and labels", rename
    return Finding.of(DataError(source.where(printable(path)), f"{problem}, found {found}{more}", action))


def _last(stray: Stray) -> str:
    """What a folder is called."""
    return printable(stray.path.rpartition("/")[2])


def _are_kinds(kinds: Sequence[str], strays: Iterable[Stray]) -> bool:
    """Whether folders side by side hold files of different kinds; if not, the kinds are names of areas."""
    of_folder: dict[str, list[frozenset[str]]] = {}
    for stray in strays:
        stem = split_suffix(stray.files[0].path.rpartition("/")[2])[0]
        found = frozenset(kind for kind in kinds if without_infix(stem, kind) is not None)
        of_folder.setdefault(stray.path.rpartition("/")[0], []).append(found)
    return all(len(set(found)) == len(found) for found in of_folder.values())


def _folders_advice(strays: Sequence[Stray]) -> str:
    """How to tell images from labels by what folders are called; "" where names do not come back in each area."""
    places: dict[str, set[str]] = {}
    for stray in strays:
        places.setdefault(_last(stray), set()).add(stray.path.rpartition("/")[0])
    names = list(places)
    if len(names) < 2 or (len(set().union(*places.values())) > 1 and min(map(len, places.values())) < 2):
        return ""
    fields = f"image_folder: {names[0]} and label_folder: {names[-1]}"
    more = f", or others of {', '.join(names[:_MOST_NAMES])}" if len(names) > 2 else ", or the other way round"
    return f"write {fields} in dataset.yaml{more}" + _about_classes(strays)


def _about_classes(strays: Iterable[Stray]) -> str:
    """That folders may be classes of whole images, where no two of them hold files of one name."""
    names = [split_suffix(file.path.rpartition("/")[2])[0] for stray in strays for file in stray.files]
    if len(set(names)) < len(names):
        return ""
    return "; if the folders are classes of whole images, these have no labels of pixels, which landseg needs"


def _folder_around(strays: Sequence[Stray]) -> str:
    """How to take all the files of areas for images; "" where a single folder, or nothing, is around them."""
    paths = [stray.path.split("/") for stray in strays]
    shared = [names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))]
    if len(paths) < 2 or not shared:
        return ""
    return f"write image_folder: {printable(shared[-1])} in dataset.yaml, if all of them are images"


def no_dataset(source: Source, folders: Sequence[str], others: Sequence[str] = ()) -> Finding:
    """Nothing in the source looks like a split, images or labels."""
    shown = ", ".join(printable(name) for name in folders[:_SHOWN]) + (", ..." if len(folders) > _SHOWN else "")
    found = f"none of them, but {shown}" if shown else "none of them"
    archives = _unpacking(others)
    if archives and not set(folders) - {name.split("/")[0] for name in others}:
        problem = f"expected folders {', '.join(SPLITS)} with images in them, found archives inside of the dataset"
        return Finding.of(DataError(source.uri, problem, archives))
    return Finding.of(
        DataError(source.uri, f"expected folders {', '.join(SPLITS)}, found {found}", _either(archives, LAYOUT_HINT))
    )


def unpacking(paths: Iterable[str], otherwise: str) -> str:
    """To unpack the archives among files that are not used, where there are any; or what to do otherwise."""
    return _either(_unpacking(paths), otherwise)


def _either(one: str, other: str) -> str:
    return f"{one}, or {other}" if one else other


def _unpacking(paths: Iterable[str]) -> str:
    found = [path for path in paths if path.lower().endswith(_ARCHIVES)]
    shown = ", ".join(map(printable, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
    if found and all(map(_is_packed_image, found)):
        return f"unpack {shown} where {'it is' if len(found) == 1 else 'they are'}"
    return (
        f"unpack {shown} into {'a folder of its name' if len(found) == 1 else 'folders of their names'}"
        if found
        else ""
    )


def _is_packed_image(path: str) -> bool:
    """Whether it is one image or label, packed by itself: `a.png.gz`."""
    stem, suffix = split_suffix(path)
    return suffix in _PACKERS and split_suffix(stem)[1] in RASTER_SUFFIXES


def infixes_advice(kinds: Sequence[str]) -> str:
    """How to tell images from labels by a part in the middle of their names."""
    told = [[kind for kind in kinds if role_of_part(kind) == role] for role in ROLES]
    image = told[0][0] if told[0] else next(kind for kind in reversed(kinds) if kind not in told[1][:1])
    label = told[1][0] if told[1] else next(kind for kind in kinds if kind != image)
    infixes = f"image_infix: {printable(image)} and label_infix: {printable(label)}"
    return f"write {infixes} in dataset.yaml" + ("" if told[0] and told[1] else ", or the other way round")


def counted(files: Iterable[SourceFile]) -> str:
    """Files by suffix: `4 .tif and 1 .png files`."""
    numbers = Counter(split_suffix(file.path)[1] for file in files)
    total = sum(numbers.values())
    return " and ".join(f"{count} {suffix}" for suffix, count in numbers.most_common()) + (
        " file" if total == 1 else " files"
    )
