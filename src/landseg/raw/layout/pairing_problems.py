"""What to say of files that are images or labels and yet no tile."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from landseg.contracts.errors import DataError, printable
from landseg.contracts.names import MAX_TILE_ID_BYTES, odd_characters
from landseg.raw.commands import cutting_command, python_command, quoted
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.layout.annotation_files import annotations_advice, patterns_of
from landseg.raw.layout.folders.band_names import CHOICE, folder_patterns, written_bands
from landseg.raw.layout.folders.layout import Folder, Layout
from landseg.raw.layout.folders.names import read_folder_name
from landseg.raw.layout.folders.roles_by_file import SEPARATOR, kinds_in_the_middle
from landseg.raw.layout.folders.strays import counted, infixes_advice, unpacking
from landseg.raw.layout.masks_of_classes import joining_advice
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.layout.suffixes import LOSSY_SUFFIXES, MASK_SUFFIX, SUFFIXES, split_suffix
from landseg.raw.layout.tile_names import stem_of
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile, parts_of, paths_of
from landseg.raw.tiff.decoding import MAX_FILE_BYTES

_SHOWN = 3
_BY_GDAL = (
    *(
        ".jxl",
        ".gif",
        ".img",
        ".flt",
        ".bil",
        ".bip",
        ".bsq",
        ".ppm",
        ".pgm",
        ".pnm",
        ".asc",
        ".ntf",
        ".nitf",
        ".pix",
        ".rst",
    ),
    *(".dem", ".hgt", ".grib", ".grib2"),
)
"""Suffixes of files that GDAL reads whole, where they are not read here."""
_VARIABLES = (".nc", ".nc4")
_ARRAYS = (".h5", ".hdf5", ".hdf", ".he5")
_WRITE_ARRAY = 'planarconfig="contig", photometric="minisblack"'


def first_names(names: Sequence[str]) -> str:
    """The first few of some names."""
    return printable(", ".join(names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def unsuitable(where: str, role: str, files: Sequence[SourceFile]) -> DataError:
    """Files among those of a role that cannot be read as such."""
    is_lossy = role == "labels" and any(file.path.lower().endswith(LOSSY_SUFFIXES) for file in files)
    action = "JPEG and its like change class values: export them as PNG" if is_lossy else _conversion(files[0])
    problem = f"expected {role} ({', '.join(SUFFIXES[role])}), found {counted(files)}"
    return DataError(where, problem, f"{action}, and move the originals out")


def _conversion(file: SourceFile) -> str:
    """How to turn a file into a TIFF, with what is installed with landseg."""
    stem, suffix = split_suffix(printable(file.path))
    path, tif = stem + suffix, f"{stem}.tif"
    if suffix in _BY_GDAL:
        return f"convert them to TIFF: rio convert -f GTiff {quoted(path, tif)}"
    if suffix in _VARIABLES:
        return (
            f"convert them to TIFF: rio info --subdatasets {quoted(path)} lists the images in one (none: it is one), "
            f"rio stack --driver GTiff NAME NAME {quoted(tif)} writes those of these names as its bands"
        )
    if suffix in _ARRAYS:
        bands = "numpy.concatenate([rasterio.open(name).read() for name in sys.argv[2:]]).transpose(1, 2, 0)"
        code = f"import sys, numpy, rasterio, tifffile; tifffile.imwrite(sys.argv[1], {bands}, {_WRITE_ARRAY})"
        return (
            f"convert them to TIFF: rio info --subdatasets {quoted(path)} lists the arrays in one, "
            f"{python_command(code, tif)} NAME NAME writes those as bands; "
            "without .transpose(1, 2, 0) where the bands are an array's last dimension"
        )
    if suffix == ".npy":
        code = f"import sys, numpy, tifffile; tifffile.imwrite(sys.argv[2], numpy.load(sys.argv[1]), {_WRITE_ARRAY})"
        return f"convert arrays of (height, width, bands) to TIFF: {python_command(code, path, tif)}"
    return "convert them to TIFF"


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


def file_problem(file: SourceFile, tile_id: str, other: SourceFile | None) -> tuple[str, str] | None:
    """What is wrong with a file of a tile, and what to do; `other` is the file that has its id already."""
    if not tile_id:
        return "the file's name says nothing but its role", "call it as its tile"
    if other is not None:
        return f"{printable(other.path)} has the same stem", "one image and one label per tile"
    if odd := odd_characters(tile_id):
        return f"the file name holds characters that are not allowed: {', '.join(odd)}", "rename it without them"
    if (size := len(tile_id.encode())) > MAX_TILE_ID_BYTES:
        problem = f"expected a file name of at most {MAX_TILE_ID_BYTES} bytes without its extension, found {size}"
        return problem, "rename it"
    return too_large(file)


def too_large(file: SourceFile) -> tuple[str, str] | None:
    """What is wrong with a file that is larger than any that is read, and what to do."""
    if file.size_bytes <= MAX_FILE_BYTES:
        return None
    problem = f"expected a file of at most {MAX_FILE_BYTES >> 20} MiB, found {file.size_bytes >> 20} MiB"
    return problem, f"cut it, its label or image alike, and move both out: {cutting_command(printable(file.path))}"


def mask_files(
    source: Source, tiles: Mapping[str, Sequence[SourceTile]], files: Sequence[SourceFile], config: DatasetConfig
) -> Iterator[Finding]:
    """Errors of images and labels with a mask in a file of its own, as GDAL writes them: what it leaves out counts.

    An image in files of bands may have one for each; labels that all images share have one error, not one per tile.
    """
    masks = {path.lower().removesuffix(MASK_SUFFIX) for path in paths_of(files) if path.lower().endswith(MASK_SUFFIX)}
    shared: set[str] = set()
    for tile in itertools.chain.from_iterable(tiles.values()) if masks else ():
        images = () if config.nodata == "none" else parts_of(tile.image)
        labels = () if tile.label is None else (tile.label,)
        for file in (*images, *labels):
            if file.path.lower() not in masks or file.path in shared:
                continue
            if is_shared := tile.shares_label and file in labels:
                shared.add(file.path)
            name = printable(file.path.rpartition("/")[2])
            stem, suffix = split_suffix(name)
            code = 'import rasterio.shutil, sys; rasterio.shutil.copy(*sys.argv[1:], driver="GTiff")'
            command = python_command(code, name, f"{stem}{'.tiff' if suffix == '.tif' else '.tif'}")
            problem = f"expected its mask inside of the file, found it in another, {name}{MASK_SUFFIX}"
            if is_shared:
                action = f"write one that has both, and name it in dataset.yaml: {command}"
            elif file in (tile.image, *labels):
                action = f"write one that has both, and move these out: {command}"
            else:  # a band is known by its name
                action = f"write one that has both, move these out, and call it as the first: {command}"
            if file not in labels:
                action += "; or write nodata: none in dataset.yaml, if all pixels are values"
            of_tile = ("", "") if is_shared else (tile.split, tile.id)
            yield Finding.of(DataError(source.where(printable(file.path)), problem, action), *of_tile)
