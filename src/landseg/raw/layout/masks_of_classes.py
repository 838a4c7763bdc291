"""Labels of which each image has several, one for each class: how to make one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from landseg.contracts.errors import printable
from landseg.raw.commands import python_command
from landseg.raw.labels.unknown.proposals import NAME, flow_map
from landseg.raw.layout.folders.names import PICTURE_WORDS, words
from landseg.raw.layout.folders.roles_by_file import SEPARATORS, ending_of, role_of_part
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.layout.tile_names import stem_of
from landseg.raw.sources.source_file import SourceFile

_MOST_CLASSES = 32
_JOINED = "labels_joined"
_CODE = (
    "import collections, glob, numpy, os, sys; from PIL import Image; out, *kinds = sys.argv[1:]; "
    "os.makedirs(out, exist_ok=True); found = collections.defaultdict(list); "
    '[found[path[len(kind.split("*")[0]):len(path) - len(kind.split("*")[1])]].append((number, path)) '
    "for number, kind in enumerate(kinds, 1) for path in glob.glob(kind)]; "
    'grey = lambda i: numpy.asarray(i.convert("L") if i.mode in ("LA", "RGB", "RGBA") else i); '
    "[Image.fromarray(numpy.max([(grey(Image.open(path)) > 0) * number for number, path in files], axis=0)"
    '.astype("uint8")).save(f"{out}/{name}.png") for name, files in found.items()]'
)


def joining_advice(images: Mapping[str, SourceFile], labels: Mapping[str, SourceFile]) -> str:
    """What to do where each image has a mask for each class, in folders or by endings of names; "" where it has not."""
    files = list(labels.values())
    stems = {stem_of(file.path) for file in images.values()}
    kinds = _by_folder(files, stems) or _by_ending(files, stems)
    if not 2 <= len(kinds) <= _MOST_CLASSES or not all(map(_may_be_class, kinds)):
        return ""
    first = next(iter(kinds.values()))
    around = first.rpartition("/")[0].rpartition("/")[0]
    command = python_command(_CODE, f"{around}/{_JOINED}" if around else _JOINED, *kinds.values())
    meanings = {0: NAME} | dict(enumerate(map(printable, kinds), 1))
    fields = f"label_folder: {_JOINED} and label_values: {flow_map(meanings)}"
    return (
        f"if these are masks of one class each, join them: {command}, and write {fields} in dataset.yaml, with the "
        f"names of classes, and in place of {NAME} the class of pixels in no mask, or ignore"
    )


def _may_be_class(kind: str) -> bool:
    parts = words(kind)
    return bool(kind) and not any(role_of_part(part) or part in PICTURE_WORDS for part in parts)


def _by_folder(files: Sequence[SourceFile], stems: set[str]) -> dict[str, str]:
    """A pattern of the masks of each class by the name of their folder; nothing where images have one label each."""
    held: dict[str, set[str]] = defaultdict(set)
    suffixes: dict[str, str] = {}
    for file in files:
        folder = file.path.rpartition("/")[0]
        held[folder].add(stem_of(file.path))
        suffixes[folder] = file.path[len(split_suffix(file.path)[0]) :]
    around = {folder.rpartition("/")[0] for folder in held}
    every = [stem for found in held.values() for stem in found]
    if len(around) != 1 or len(set(every)) == len(every) or not stems.issuperset(every):
        return {}
    return {folder.rpartition("/")[2]: f"{folder}/*{suffixes[folder]}" for folder in sorted(held)}


def _by_ending(files: Sequence[SourceFile], stems: set[str]) -> dict[str, str]:
    """The same by what the masks' names add to those of the images."""
    found: dict[str, str] = {}
    numbers: dict[str, int] = defaultdict(int)
    for file in files:
        stem, folder = stem_of(file.path), file.path.rpartition("/")[0]
        ending = ending_of(stem, stems)
        if not ending or ending[0] not in SEPARATORS or len(found) > _MOST_CLASSES:
            return {}
        suffix = file.path[len(split_suffix(file.path)[0]) :]
        found[ending.strip(SEPARATORS).rstrip(f"{SEPARATORS}0123456789") or ending] = f"{folder}/*{ending}{suffix}"
        numbers[stem.removesuffix(ending)] += 1
    return dict(sorted(found.items())) if max(numbers.values(), default=0) > 1 else {}
