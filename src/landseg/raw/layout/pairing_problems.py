"""What to say of files that are images or labels and yet no tile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from landseg.contracts.errors import DataError, printable
from landseg.contracts.names import MAX_TILE_ID_BYTES, odd_characters
from landseg.raw.layout.strays import counted
from landseg.raw.layout.suffixes import LOSSY_SUFFIXES, SUFFIXES
from landseg.raw.layout.tile_names import stem_of
from landseg.raw.sources.source import SourceFile
from landseg.raw.tiff.decoding import MAX_FILE_BYTES

_SHOWN = 3


def first_names(names: Sequence[str]) -> str:
    """The first few of some names."""
    return printable(", ".join(names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def unsuitable(where: str, role: str, files: Sequence[SourceFile]) -> DataError:
    """Files among those of a role that cannot be read as such."""
    is_lossy = role == "labels" and any(file.path.lower().endswith(LOSSY_SUFFIXES) for file in files)
    action = "JPEG and its like change class values: export them as PNG" if is_lossy else "convert them to TIFF"
    problem = f"expected {role} ({', '.join(SUFFIXES[role])}), found {counted(files)}"
    return DataError(where, problem, f"{action}, and move the originals out")


def unpaired(where: str, split: str, images: Mapping[str, SourceFile], labels: Mapping[str, SourceFile]) -> DataError:
    """Not one image of a split has a label."""
    image = next(iter(images.values()))
    if not labels:
        problem = f"expected labels for the {len(images)} images of {split}, found none"
        return DataError(where, problem, "add the labels, or move the images to test")
    label = next(iter(labels.values()))
    problem = (
        f"expected labels called as the images of {split}, found none among {len(images)} images such as "
        f"{printable(image.path)} and {len(labels)} labels such as {printable(label.path)}"
    )
    return DataError(where, problem, _naming_advice(labels.values()))


def _naming_advice(labels: Iterable[SourceFile]) -> str:
    """What to do where names do not pair: the endings among labels where there are a few, as in Cityscapes."""
    endings: dict[str, int] = defaultdict(int)
    for file in labels:
        stem = stem_of(file.path)
        endings[stem[stem.rfind("_") :] if "_" in stem else ""] += 1
    several = [ending for ending in endings if ending.strip("_0123456789")]
    if 1 < len(several) == len(endings) and len(set(endings.values())) == 1:
        return f"say which labels are meant with label_suffix in dataset.yaml: one of {', '.join(sorted(several))}"
    return "give both the same names, or set image_suffix and label_suffix in dataset.yaml"


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
    if file.size_bytes > MAX_FILE_BYTES:
        return f"expected a file of at most {MAX_FILE_BYTES >> 20} MiB, found {file.size_bytes >> 20} MiB", "cut it"
    return None
