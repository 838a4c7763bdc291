"""Tile ids from the names of files and the folders around them: what images and labels add to them is taken off.

Images and labels are paired by what remains. `dataset.yaml` may say what they add (`image_suffix`, `image_infix`, ...);
otherwise it is found where all images share one prefix or suffix and all labels another (`12_sat`, `12_mask`).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.layout.folders.layout import Folder, Layout
from landseg.raw.layout.folders.roles_by_file import SEPARATOR, SEPARATORS, role_of_part, with_infix, without_infix
from landseg.raw.layout.suffixes import SUFFIXES, split_suffix

AREA_SEPARATOR = "__"
_SAMPLE = 1000
_SURE = 3
"""As many pairs show that a suffix which is no word for images or labels is one all the same."""
_MOST_AFFIXES = 5


@dataclass(frozen=True)
class Affixes:
    """What the names of one role add to tile ids."""

    prefix: str = ""
    suffix: str = ""
    declared: str = ""
    declared_prefix: str = ""
    infix: str = ""
    declared_infix: str = ""

    def core(self, stem: str) -> str | None:
        """The stem without them; None where it is not as `dataset.yaml` says."""
        if not self:
            return stem
        for infix in (self.declared_infix, self.infix):
            if infix and (without := without_infix(stem, infix)) is not None:
                stem = without
            elif infix and infix == self.declared_infix:
                return None
        if self.declared or self.declared_prefix:
            if not stem.startswith(self.declared_prefix) or not stem.endswith(self.declared):
                return None
            stem = stem.removeprefix(self.declared_prefix).removesuffix(self.declared)
        if stem.startswith(self.prefix) and stem.endswith(self.suffix) and len(stem) >= len(self.prefix + self.suffix):
            stem = stem[len(self.prefix) : len(stem) - len(self.suffix)]
        return stem

    def __bool__(self) -> bool:
        affixes = self.prefix, self.suffix, self.declared, self.declared_prefix, self.infix, self.declared_infix
        return any(affixes)

    def around(self, core: str) -> str:
        """The stem of the file that would belong to a tile."""
        return f"{self.declared_prefix}{self.prefix}{core}{self.suffix}{self.declared}"

    def __str__(self) -> str:
        if infix := self.infix or self.declared_infix:
            return f"…{infix}…"
        before = f"{self.declared_prefix}{self.prefix}"
        begins = f"{before}… " if before else ""
        return f"{begins}…{self.suffix}{self.declared}" if self.suffix or self.declared else begins.strip()


@dataclass(frozen=True)
class Naming:
    """How files are named.

    Attributes:
        images, labels: what their names add to tile ids.
        with_areas: whether areas are part of tile ids.
        kept: splits without labels whose images have other names, taken as they are.
    """

    images: Affixes
    labels: Affixes
    with_areas: bool = True
    kept: frozenset[str] = frozenset()

    def sibling(self, role: str, core: str, other: str) -> str:
        """The stem of the file that would belong to a tile.

        Args:
            role: of the file.
            core: of the tile's id, without areas.
            other: the stem of the file of the other role.
        """
        own, others = (self.images, self.labels) if role == "images" else (self.labels, self.images)
        infix, others_infix = (a.infix or a.declared_infix for a in (own, others))
        if infix and others_infix:
            return with_infix(other, others_infix, infix)
        return own.around(core)

    def tile_id(self, folder: Folder, stem: str) -> str | None:
        """The id of a file's tile; None for a file that is not named as `dataset.yaml` says."""
        affixes = self.images if folder.role == "images" else self.labels
        core = stem if folder.split in self.kept else affixes.core(stem)
        if core is None:
            return None
        return AREA_SEPARATOR.join((*folder.area, core) if core else folder.area) if self.with_areas else core


def declared_naming(config: DatasetConfig) -> Naming:
    """As `dataset.yaml` says, without a look at the files."""
    return Naming(
        Affixes(
            declared=_declared(config.image_suffix),
            declared_prefix=_normal(config.image_prefix),
            declared_infix=_normal(config.image_infix).strip(SEPARATORS),
        ),
        Affixes(
            declared=_declared(config.label_suffix),
            declared_prefix=_normal(config.label_prefix),
            declared_infix=_normal(config.label_infix).strip(SEPARATORS),
        ),
    )


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _declared(suffix: str) -> str:
    """Some write the file name's suffix along, as mmsegmentation does: `_gtFine_labelIds.png`."""
    stem, file_suffix = split_suffix(suffix)
    known = {*SUFFIXES["images"], *SUFFIXES["labels"]}
    return _normal(stem if file_suffix in known else suffix)


def stem_of(path: str) -> str:
    """The stem of a path's file name; macOS writes "é" as two characters."""
    return unicodedata.normalize("NFC", split_suffix(path.rpartition("/")[2])[0])


def find_naming(layout: Layout, config: DatasetConfig) -> Naming | None:
    """How images and labels are named so that they can be paired; None where no image has a label."""
    naming = declared_naming(config)
    if layout.has_shared_labels:
        with_images = [split for split, role in layout.folders if role == "images"]
        splits = [split for split in with_images if split != "test"] or with_images
    else:
        splits = [split for split, role in layout.folders if role == "labels" and (split, "images") in layout.folders]
    images, labels = (_Names(layout, role, splits, naming) for role in ("images", "labels"))
    if images.is_empty() or labels.is_empty() or images.any_in(labels, naming):
        return naming
    if found := _with_affixes(images, labels, naming):
        return replace(found, kept=_kept(layout, found, splits))
    if found := _with_affixes(images, labels, naming, infixes=True):
        return replace(found, kept=_kept(layout, found, splits))
    if not (images.have_areas or labels.have_areas):
        return None
    flat = replace(naming, with_areas=False)
    if not (images.are_unique(flat) and labels.are_unique(flat)):
        return None
    if images.any_in(labels, flat):
        return flat
    found = _with_affixes(images, labels, flat) or _with_affixes(images, labels, flat, infixes=True)
    return replace(found, kept=_kept(layout, found, splits)) if found else None


class _Names:
    """The names of all files of one role in the splits that have labels."""

    def __init__(self, layout: Layout, role: str, splits: list[str], naming: Naming) -> None:
        self._is_shared = layout.has_shared_labels
        keys = [""] if self._is_shared and role == "labels" else splits
        self.folders = [folder for split in keys for folder in layout.folders.get((split, role), ())]
        self.have_areas = any(folder.area for folder in self.folders)
        self._suffixes = SUFFIXES[role]
        self._declared = naming.images if role == "images" else naming.labels

    def __iter__(self) -> Iterator[tuple[Folder, str]]:
        """Folder and stem of each file that can be read and is named as `dataset.yaml` says."""
        for folder in self.folders:
            for file in folder.files:
                if split_suffix(file.path)[1] in self._suffixes:
                    stem = stem_of(file.path)
                    if self._declared.core(stem) is not None:
                        yield folder, stem

    def is_empty(self) -> bool:
        """Whether there is none."""
        return next(iter(self), None) is None

    def ids(self, naming: Naming) -> Iterator[tuple[str, str | None]]:
        """Split and tile id of each."""
        return ((self._split(folder), naming.tile_id(folder, stem)) for folder, stem in self)

    def sample(self, naming: Naming, names: Iterable[tuple[Folder, str]]) -> set[tuple[str, str | None]]:
        """Split and tile id of some of them."""
        return {(self._split(folder), naming.tile_id(folder, stem)) for folder, stem in names}

    def _split(self, folder: Folder) -> str:
        return "" if self._is_shared else folder.split

    def are_unique(self, naming: Naming) -> bool:
        """Whether no two have one id."""
        ids = list(self.ids(naming))
        return len(set(ids)) == len(ids)

    def any_in(self, labels: _Names, naming: Naming) -> bool:
        """Whether any of them has a label. The first few tell nearly always: there may be millions."""
        few = set(itertools.islice(self.ids(naming), _SAMPLE))
        return any(label in few for label in labels.ids(naming)) or not set(labels.ids(naming)).isdisjoint(
            self.ids(naming)
        )

    def infixes(self, affixes: Affixes) -> list[Affixes]:
        """The parts in the middle of their names that all of them share; first none."""
        stems = (affixes.core(stem) or "" for _, stem in self)
        parts = [part for part in SEPARATOR.split(next(stems))[1:-1] if _has_letter(part)]
        for stem in stems:
            parts = [part for part in parts if without_infix(stem, part) is not None]
        return [affixes, *(replace(affixes, infix=part) for part in parts[:_MOST_AFFIXES])]

    def shared(self, affixes: Affixes) -> list[Affixes]:
        """The prefixes and suffixes that all of them share, the shortest first."""
        stems = (affixes.core(stem) or "" for _, stem in self)
        first = next(stems)
        breaks = list(SEPARATOR.finditer(first))
        whole = [first] if all(folder.area for folder in self.folders) else []  # `sample1/image.tif`
        prefixes = [*(first[: match.end()] for match in breaks), *whole]
        suffixes = [*(first[match.start() :] for match in reversed(breaks)), *whole]
        prefixes, suffixes = ([affix for affix in all_ if _has_letter(affix)] for all_ in (prefixes, suffixes))
        for stem in stems:
            prefixes = [prefix for prefix in prefixes if stem.startswith(prefix)]
            suffixes = [suffix for suffix in suffixes if stem.endswith(suffix)]
        pairs = itertools.product(["", *prefixes[:_MOST_AFFIXES]], ["", *suffixes[:_MOST_AFFIXES]])
        return [replace(affixes, prefix=prefix, suffix=suffix) for prefix, suffix in pairs]


def _with_affixes(images: _Names, labels: _Names, naming: Naming, *, infixes: bool = False) -> Naming | None:
    """The prefixes and suffixes, or the infixes, that make the most pairs, the shortest of several."""
    total = sum(1 for _ in images)
    sample = list(itertools.islice(images, 0, None, max(1, total // _SAMPLE)))
    best: tuple[int, int, Naming] | None = None
    of_images = images.infixes(naming.images) if infixes else images.shared(naming.images)
    for label in labels.infixes(naming.labels) if infixes else labels.shared(naming.labels):
        found = set(labels.ids(replace(naming, labels=label)))
        for image in of_images:
            candidate = replace(naming, images=image, labels=label)
            pairs = len(images.sample(candidate, sample) & found)
            if pairs and (_tells(image, label) or (pairs >= _SURE and pairs >= min(len(sample), len(found)))):
                length = sum(len(a.prefix + a.suffix + a.infix) for a in (image, label))
                if best is None or (-pairs, length) < best[:2]:
                    best = -pairs, length, candidate
    return best[2] if best else None


def _tells(image: Affixes, label: Affixes) -> bool:
    """Whether what is taken off says image and label itself."""
    told = [_roles_told(affixes) for affixes in (image, label)]
    return told[0] <= {"images"} and told[1] <= {"labels"} and bool(told[0] | told[1])


def _roles_told(affixes: Affixes) -> set[str]:
    parts = SEPARATOR.split(affixes.prefix) + SEPARATOR.split(affixes.suffix) + [affixes.infix]
    return {role_of_part(part) for part in parts if part} - {""}


_has_letter: Callable[[str], object] = re.compile(r"[^\W\d_]").search


def _kept(layout: Layout, naming: Naming, labelled: list[str]) -> frozenset[str]:
    """Splits without labels in which not every image is named like those of the others."""
    kept = set()
    for (split, role), folders in layout.folders.items():
        if role == "images" and split not in labelled:
            stems = (stem_of(file.path) for folder in folders for file in folder.files)
            if any(naming.images.core(stem) in (stem, None) for stem in stems) and naming.images:
                kept.add(split)
    return frozenset(kept)
