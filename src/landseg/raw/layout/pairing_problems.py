"""What to say where a split lacks images or labels, or where they do not pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from landseg.contracts.errors import DataError, printable
from landseg.raw.findings import Finding
from landseg.raw.layout.annotation_files import annotations_advice, patterns_of
from landseg.raw.layout.folders.band_names import CHOICE, folder_patterns, written_bands
from landseg.raw.layout.folders.layout import Folder, Layout
from landseg.raw.layout.folders.names import read_folder_name
from landseg.raw.layout.folders.roles_by_file import SEPARATOR, kinds_in_the_middle
from landseg.raw.layout.folders.strays import infixes_advice, unpacking
from landseg.raw.layout.masks_of_classes import joining_advice
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.layout.tile_names import stem_of
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile

_SHOWN = 3


def first_names(names: Sequence[str]) -> str:
    """The first few of some names."""
    return printable(", ".join(names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def unpaired(where: str, split: str, images: Mapping[str, SourceFile], labels: Mapping[str, SourceFile]) -> DataError:
    """Not one image of a split has a label among those that there are."""
    image = next(iter(images.values()))
    label = next(iter(labels.values()))
    of_split = f" of {split}" if split else ""
    problem = (
        f"expected labels called as the images{of_split}, found none among {len(images)} images such as "
        f"{printable(image.path)} and {len(labels)} labels such as {printable(label.path)}"
    )
    if bands := _bands_in_folders(images.values()):
        return DataError(where, problem, bands)
    joining = joining_advice(images, labels)
    otherwise = f"{joining}; or " if joining else ""
    stems = {stem_of(file.path) for file in labels.values()}
    alike = next((file for file in images.values() if stem_of(file.path) in stems), None)
    if alike is not None:  # the folders around them differ
        other = next(file for file in labels.values() if stem_of(file.path) == stem_of(alike.path))
        folders = [printable(file.path.split("/")[-2]) for file in (alike, other) if "/" in file.path]
        if len(folders) == 2 and folders[0] != folders[1]:
            fields = f"image_folder: {folders[0]} and label_folder: {folders[1]}"
            if both := _bands_in_folders(images.values(), are_named=False):  # two dates, two sensors
                fields += f" in dataset.yaml, or, to see all of an image's files as one, {both} and label_folder"
                return DataError(where, problem, f"{otherwise}write {fields}: {folders[1]}")
            return DataError(
                where, problem, f"{otherwise}write {fields} in dataset.yaml, or the names of other folders"
            )
    advice = joining or _other_case(images, labels) or _infixes(image, label) or _naming_advice(images, labels)
    return DataError(where, problem, advice)


def headed_advice(layout: Layout) -> str:
    """How to name images of ENVI so that they are known as such; "" where there are none."""
    if not layout.headed:
        return ""
    path = printable(layout.headed[0])
    stem = split_suffix(path)[0]
    renamed = f"rename {path} to {stem}.dat, with its header as {stem}.hdr, and so on"
    return f"{len(layout.headed)} files have a header (.hdr), as of ENVI, and no suffix of images: {renamed}"


def without_labels(where: str, layout: Layout, split: str, images: Mapping[str, SourceFile]) -> DataError:
    """A split has images and no labels: what may hold them, from the folders and files that are not used."""
    folders = [folder for folder in layout.unrelated if folder.path and len(folder.files) >= len(images)]
    files = [file.path for folder in layout.unrelated for file in folder.files if len(folder.files) == 1]
    files += patterns_of(layout.others)
    has_others = any(role == "labels" for _, role in layout.folders)
    patterns = [path for path in files if "*" in path and not has_others]
    if folders and not patterns:
        action = f"write label_folder: {_shortest(folders[0].path, layout)} in dataset.yaml{_or_another(folders)}, or"
    elif files and not has_others:
        file = [*patterns, *files][0]
        name = f'"{printable(file)}"' if patterns else printable(file)
        has = "these files have" if patterns else "that file has"
        action = f"write labels: {name} in dataset.yaml if {has} the labels of all images, or"
    elif not has_others and (advice := headed_advice(layout) or annotations_advice(layout, images.values())):
        action = f"{advice}, or"
    else:
        action = ""
    said = layout.present.get(split, split)
    test = [name for other, name in layout.present.items() if other == "test"]
    both = f"[{', '.join(map(printable, (said, *test)))}]" if test else printable(said)
    action += " add the labels" if action else unpacking(layout.others, "add the labels")
    if has_others and said:
        action += f", or write splits: {{test: {both}}} in dataset.yaml, which predicts them"
    else:
        action += ", or move the images to test"
    return DataError(where, f"expected labels for the {len(images)} images of {split}, found none", action)


def _infixes(image: SourceFile, label: SourceFile) -> str:
    """What to write where the names of both differ in one part in the middle alone."""
    parts = [SEPARATOR.split(stem_of(file.path)) for file in (image, label)]
    if len(parts[0]) != len(parts[1]):
        return ""
    differ = [index for index, both in enumerate(zip(*parts, strict=True)) if both[0] != both[1]]
    if len(differ) != 1 or not 0 < differ[0] < len(parts[0]) - 1:
        return ""
    infixes = [printable(part[differ[0]]) for part in parts]
    return f"write image_infix: {infixes[0]} and label_infix: {infixes[1]} in dataset.yaml"


def _bands_in_folders(files: Iterable[SourceFile], *, are_named: bool = True) -> str:
    """What to write where each folder holds one band, or some, of the same images; "" where it does not."""
    held: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        held[file.path.rpartition("/")[0]].append(file)
    bands = folder_patterns(list(held.items()), are_named=are_named)
    if not bands or not are_named:
        return written_bands(bands) if bands else ""
    return f"write {written_bands(bands)} in dataset.yaml, {CHOICE}"


def without_images(where: str, layout: Layout, found: str, num_labels: int) -> DataError:
    """There are labels and no images: the folders that may hold them."""
    folders = [folder for folder in layout.unrelated if folder.path]
    folders.sort(key=lambda folder: len(folder.files) != num_labels)
    elsewhere = f", but {first_names([folder.path for folder in folders])}" if folders else ""
    action = unpacking(layout.others, "rename the folder of the images to images")
    if folders and not (action := _bands_in_folders(file for folder in folders for file in folder.files)):
        action = f"write image_folder: {_shortest(folders[0].path, layout)} in dataset.yaml{_or_another(folders)}"
    return DataError(where, f"expected a folder of images next to {found}, found none{elsewhere}", action)


def _or_another(folders: Sequence[Folder]) -> str:
    return ", or the name of another one" if len({folder.path.rpartition("/")[2] for folder in folders}) > 1 else ""


def _shortest(path: str, layout: Layout) -> str:
    """The last names of a folder's path, as many as it takes to tell it from the folders that are something else.

    Those that are not used and called alike are its counterparts in other splits and areas.
    """
    others = [folder.path for held in layout.folders.values() for folder in held]
    names = path.split("/")
    for count in range(1, len(names)):
        last = "/".join(names[-count:])
        if not any(f"/{last}/" in f"/{other}/" for other in others):
            return printable(last)
    return printable(path)


def _other_case(images: Mapping[str, SourceFile], labels: Mapping[str, SourceFile]) -> str:
    """What to rename where names differ in upper and lower case alone."""
    by_name = {stem_of(file.path).casefold(): file for file in labels.values()}
    for file in images.values():
        if (label := by_name.get(stem_of(file.path).casefold())) is not None:
            name = stem_of(file.path) + split_suffix(label.path)[1]
            return f"give both the same names, in upper and lower case too: {printable(name)}"
    return ""


def _naming_advice(images: Mapping[str, SourceFile], labels: Mapping[str, SourceFile]) -> str:
    """What to do where names do not pair: the endings among labels where there are a few, as in Cityscapes."""
    endings: dict[str, int] = defaultdict(int)
    stems = {stem_of(file.path) for file in images.values()}
    for file in labels.values():
        stem = stem_of(file.path)
        at = stem.rfind("_")
        endings[stem[at:] if stem[: max(at, 0)] in stems else ""] += 1
    several = [ending for ending in endings if ending.strip("_0123456789")]
    if 1 < len(several) == len(endings) and len(set(endings.values())) == 1:
        return f"say which labels are meant with label_suffix in dataset.yaml: one of {', '.join(sorted(several))}"
    fields = "image_suffix and label_suffix in dataset.yaml, or image_prefix and label_prefix"
    return f"give both the same names, or set {fields}"


def unlike_kinds(source: Source, layout: Layout) -> Finding | None:
    """An error where images and labels seem to be told apart by a part in the middle of their names alone."""
    if any(role == "labels" for _, role in layout.folders) or layout.declared.roles:
        return None
    images = [folder for (_, role), held in layout.folders.items() if role == "images" for folder in held]
    if any(read_folder_name(name).roles for folder in images for name in folder.shape):
        return None
    kinds = kinds_in_the_middle([folder.files for folder in images])
    if not kinds:
        return None
    shown = ", ".join(map(printable, kinds))
    problem = f"expected images and labels to be told apart, found files whose names differ in {shown} alone"
    action = f"{infixes_advice(kinds)}; or put them into a folder called images, if all are"
    return Finding.of(DataError(source.uri, problem, action))
