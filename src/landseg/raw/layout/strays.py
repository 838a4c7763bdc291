"""What to say of files with pixels that are in no folder of a split's images or labels: one line for each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import DataError, printable
from landseg.raw.findings import Finding
from landseg.raw.layout.folder_names import similar_name
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.sources.source import LAYOUT_HINT, Source, SourceFile

_SHOWN = 3


@dataclass(frozen=True)
class Stray:
    """A folder whose files are not used.

    Attributes:
        kind: its name says two things; a split but no role; a role but no split; or neither.
        path: relative to the source.
        files: those with pixels.
        says: what its name does say.
    """

    kind: Literal["unclear", "no role", "no split", "unrelated"]
    path: str
    files: Sequence[SourceFile]
    says: str = ""


def conflict(source: Source, split: str, role: str, places: Sequence[str]) -> Finding:
    """The files of one split and role lie in two places."""
    what = f"{role} of {split}" if split else role
    found = " and ".join(printable(place) or "the folder itself" for place in places[:_SHOWN])
    return Finding.of(
        DataError(
            source.uri, f"expected one folder with the {what}, found {found}", "move all but one out of the dataset"
        ),
        split,
    )


def stray_findings(source: Source, strays: Iterable[Stray], *, has_vrt: bool = False) -> list[Finding]:
    """One finding for each kind of strays, with counts and the first folders.

    `has_vrt`: whether an image is a VRT, which may refer to any of them.
    """
    by_kind: dict[tuple[str, str], list[Stray]] = {}
    for stray in strays:
        near = next((name for name in map(similar_name, stray.path.split("/")) if name), "")
        kind = "misspelt" if stray.kind == "unrelated" and near else stray.kind
        by_kind.setdefault((kind, "" if kind == "no split" else stray.says), []).append(stray)
    return [_finding(source, kind, held, has_vrt) for (kind, _), held in sorted(by_kind.items())]


def _finding(source: Source, kind: str, strays: list[Stray], has_vrt: bool) -> Finding:
    path = strays[0].path
    says = " and ".join(sorted({stray.says for stray in strays}))
    found = counted(file for stray in strays for file in stray.files)
    if kind == "unrelated":
        folders = ", ".join(printable(stray.path) or "the dataset's own folder" for stray in strays[:_SHOWN])
        more = f" and {len(strays) - _SHOWN} more" if len(strays) > _SHOWN else ""
        unless = ", unless a VRT refers to them" if has_vrt else ""
        return Finding("", f"{found} outside of the splits not used{unless}: in {folders}{more}", severity="warning")
    more = f" (and in {len(strays) - 1} more folders)" if len(strays) > 1 else ""
    name = next((name for name in path.split("/") if similar_name(name)), "")
    rename = f"rename {printable(name)} to {similar_name(name)}" if name else ""
    if kind == "unclear":
        problem, action = f"expected a path that says one thing, found {says} in it", "rename one of its folders"
    elif kind == "no role":
        problem = "expected images or labels in this split's folders"
        action = rename or f"rename the folder images or labels, or move it out of the folder of {says}"
    elif kind == "no split":
        problem = f"expected {says} in the folder of a split ({', '.join(SPLITS)})"
        action = rename or "move the folder into that of its split, or out of the dataset"
    else:
        problem, action = "expected folders of splits, images and labels", rename
    return Finding.of(DataError(source.where(printable(path)), f"{problem}, found {found}{more}", action))


def no_dataset(source: Source, folders: Sequence[str]) -> Finding:
    """Nothing in the source looks like a split, images or labels."""
    shown = ", ".join(printable(name) for name in folders[:_SHOWN]) + (", ..." if len(folders) > _SHOWN else "")
    found = f"none of them, but {shown}" if shown else "none of them"
    return Finding.of(DataError(source.uri, f"expected folders {', '.join(SPLITS)}, found {found}", LAYOUT_HINT))


def counted(files: Iterable[SourceFile]) -> str:
    """Files by suffix: `4 .tif and 1 .png files`."""
    numbers = Counter(split_suffix(file.path)[1] for file in files)
    total = sum(numbers.values())
    return " and ".join(f"{count} {suffix}" for suffix, count in numbers.most_common()) + (
        " file" if total == 1 else " files"
    )
