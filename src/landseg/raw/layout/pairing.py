"""Pairs of image and label, and the files that belong to no pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import DataError, printable
from landseg.raw.compact_list import CompactList
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.georeference.sidecars import list_sidecars, place_sidecars_of, sidecars_of, with_header
from landseg.raw.layout.band_files import join_bands, unjoined_bands
from landseg.raw.layout.by_id import FilesById, by_id, joined
from landseg.raw.layout.dividing import LABELLED_SPLITS, LISTS_ADVICE, Divider
from landseg.raw.layout.file_problems import file_problem, mask_files, unsuitable
from landseg.raw.layout.folders.layout import Folder, Layout
from landseg.raw.layout.folders.names import ROLES
from landseg.raw.layout.folders.reading import understand
from landseg.raw.layout.folders.strays import counted, unpacking
from landseg.raw.layout.folders.tile_folders import are_tile_folders, join_tile_folders
from landseg.raw.layout.pairing_problems import first_names, headed_advice, unlike_kinds, unpaired, without_labels
from landseg.raw.layout.source_tiles import SourceTile, tile_list
from landseg.raw.layout.split_lists import TABLE_SUFFIXES
from landseg.raw.layout.suffixes import SUFFIXES, split_suffix
from landseg.raw.layout.tile_names import AREA_SEPARATOR, Naming, declared_naming, find_naming, stem_of
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import BandFiles, SourceFile, file_list


@dataclass
class Pairing:
    """The tiles of a source, split by split in order of id, and what there is to say about its files."""

    tiles: dict[str, Sequence[SourceTile]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add_sidecars(self, files: Sequence[SourceFile]) -> None:
        """Find the files that say where images and labels lie, and headers, among the source's."""
        if listed := list_sidecars(files):
            for split, tiles in self.tiles.items():
                self.tiles[split] = tile_list(
                    replace(
                        tile,
                        image=with_header(tile.image, listed) if isinstance(tile.image, BandFiles) else tile.image,
                        label=tile.label and with_header(tile.label, listed),
                        sidecars=sidecars_of(tile.image.path, listed),
                        label_sidecars=()
                        if tile.label is None or tile.shares_label
                        else place_sidecars_of(tile.label.path, listed),
                    )
                    for tile in tiles
                )


def pair(source: Source, files: Sequence[SourceFile], config: DatasetConfig) -> Pairing:
    """Understand the layout, pair images and labels by name, and collect everything that does not fit."""
    shares = bool(config.shared_labels)
    if are_tile_folders(config.band_files):
        joined_files, findings = join_tile_folders(source, files, config.band_files)
        layout = understand(source, joined_files, config, shares_labels=shares)
        layout.findings += findings
    elif any("/" in name for name in config.band_files):
        layout = understand(source, files, config, config.band_files, shares_labels=shares)
    else:
        layout = understand(source, files, config, shares_labels=shares)
        layout.findings += join_bands(source, layout, config) if config.band_files else []
    pairing = _Pairer(source, layout, config).pair()
    pairing.add_sidecars(files)
    pairing.findings += mask_files(source, pairing.tiles, files, config)
    return pairing


class _Pairer:
    """One pairing at work."""

    def __init__(self, source: Source, layout: Layout, config: DatasetConfig) -> None:
        self.source, self.layout, self.config = source, layout, config
        found = find_naming(layout, config)
        self.is_paired = found is not None
        self.naming: Naming = found or declared_naming(config)
        self.result = Pairing(findings=layout.findings)
        self.remarks = layout.remarks
        self.divider = Divider(source, layout, config, self.naming, is_paired=self.is_paired)
        # What is missing may then be what is not understood.
        self.is_unclear = any(finding.severity == "error" for finding in layout.findings)
        error = None if config.band_files else unjoined_bands(source, layout, self.is_paired)
        self.is_unjoined = error is not None
        if error is not None:
            self.result.findings.append(error)
            self.is_unclear = True
        if not self.is_unclear and (error := unlike_kinds(source, layout)):
            self.result.findings.append(error)
            self.is_unclear = True

    def pair(self) -> Pairing:
        """The tiles and findings."""
        if self.is_unjoined:  # what is one band is no tile
            self._remark()
            return self.result
        found = self.divider.divide(self._collect())
        present = self.layout.present.keys() | {split for split, _ in found}
        for split in SPLITS:
            if split in present:
                self.result.tiles[split] = self._pair_split(
                    split, *(found.pop((split, role), FilesById()) for role in ROLES)
                )
        if self.config.shared_labels and not any(self.result.tiles.get(split) for split in LABELLED_SPLITS):
            problem = "expected images of train or val for the labels that dataset.yaml names, found none"
            self._add(DataError(self.source.uri, problem, f"{LISTS_ADVICE} train and val with images in each"))
        self._remark()
        return self.result

    def _collect(self) -> dict[tuple[str, str], FilesById]:
        """Files by split, role and id; those that cannot be used become findings."""
        found: dict[tuple[str, str], FilesById] = {}
        others: dict[tuple[str, str], CompactList[SourceFile]] = defaultdict(file_list)
        unnamed: dict[str, CompactList[SourceFile]] = defaultdict(file_list)
        for (split, role), folders in self.layout.folders.items():
            named = self._named(role, folders, others[split, role], unnamed[role])
            wrong: list[tuple[int, DataError, str]] = []
            found[split, role] = FilesById(self._good(by_id(named), wrong))
            for _, error, tile_id in sorted(wrong, key=itemgetter(0)):
                self._add(error, split, tile_id)
        for (split, role), files in others.items():
            if files:
                self._add(unsuitable(self._where(split, role), role, files), split)
        for role, files in unnamed.items():
            if not files:
                continue
            affixes = declared_naming(self.config)
            called = affixes.images if role == "images" else affixes.labels
            self.remarks.append(f"{counted(files)} among the {role} are not called {called} and are not used")
        return found

    def _named(
        self,
        role: str,
        folders: Iterable[Folder],
        others: CompactList[SourceFile],
        unnamed: CompactList[SourceFile],
    ) -> Iterator[tuple[str, SourceFile]]:
        """The files of a role with their ids; those that cannot be read, or are called otherwise, go to the lists."""
        for folder in folders:
            for file in folder.files:
                if not file.path.lower().endswith(SUFFIXES[role]):
                    others.append(file)
                elif (tile_id := self.naming.tile_id(folder, stem_of(file.path))) is None:
                    unnamed.append(file)
                else:
                    yield tile_id, file

    def _good(
        self, numbered: Iterable[tuple[int, tuple[str, SourceFile]]], wrong: list[tuple[int, DataError, str]]
    ) -> Iterator[tuple[str, SourceFile]]:
        """Those of the sorted files that can be used, one for each id; what is wrong with the others is appended."""
        last: tuple[str, SourceFile] | None = None
        for number, (tile_id, file) in numbered:
            other = last[1] if last is not None and last[0] == tile_id else None
            if problem := file_problem(file, tile_id, other):
                error = DataError(self.source.where(printable(file.path)), *problem)
                wrong.append((number, error, printable(tile_id) or printable(file.path)))
            else:
                last = tile_id, file
                yield last

    def _folder(self, split: str, role: str) -> str:
        """The folder of a role, where files are divided by lists too."""
        key = "" if (split, role) not in self.layout.folders and ("", role) in self.layout.folders else split
        return printable(self.layout.where(key, role))

    def _where(self, split: str, role: str) -> str:
        return self.source.where(self._folder(split, role))

    def _add(self, error: DataError, split: str = "", tile_id: str = "") -> None:
        self.result.findings.append(Finding.of(error, split, tile_id))

    def _pair_split(self, split: str, images: FilesById, labels: FilesById) -> Sequence[SourceTile]:
        is_explained = self.is_unclear or any(
            finding.split == split and not finding.tile_id for finding in self.result.findings
        )
        if not images:
            if not is_explained:
                problem = f"empty split: expected images ({', '.join(SUFFIXES['images'])}), found none"
                action = unpacking(self.layout.others, f"add images, or remove the folder of {split}")
                action = headed_advice(self.layout) or action
                self._add(DataError(self._where(split, "images"), problem, action), split)
            return []
        if self.config.shared_labels and split in LABELLED_SPLITS:
            return self._with_shared_labels(split, images, labels)
        is_labelled = split in LABELLED_SPLITS or bool(labels)
        if is_labelled and all(None in both for _, both in joined(images, labels)):
            if not is_explained:
                where = self._where(split, "labels")
                error = (
                    unpaired(where, split, images, labels)
                    if labels
                    else without_labels(where, self.layout, split, images)
                )
                self._add(error, split)
            return []
        tiles = tile_list()
        wrong = {finding.tile_id for finding in self.result.findings if finding.split in (split, "")}
        alone: list[str] = []
        for tile_id, (image, label) in joined(images, labels, drain=True):
            if image is None:
                alone.append(tile_id)
            if tile_id in wrong:
                continue
            if image is not None and (label is not None or not is_labelled):
                tiles.append(SourceTile(split, tile_id, image, label))
            elif image is not None:
                problem = f"image without label: expected {self._expected(split, 'labels', tile_id, labels, image)}"
                other = "move the image to test" if split != "test" else "remove all labels of test"
                self._add(
                    DataError(self.source.where(image.path), problem, f"add the label, or {other}"), split, tile_id
                )
            elif label is not None and self.config.labels_without_image == "error":
                problem = f"label without image: expected {self._expected(split, 'images', tile_id, images, label)}"
                action = "add the image, remove the label, or set labels_without_image: skip in dataset.yaml"
                self._add(DataError(self.source.where(label.path), problem, action), split, tile_id)
        if self.config.labels_without_image == "skip" and alone:
            sentence = f"{len(alone)} labels of {split} have no image and are left out: {first_names(alone)}"
            self.result.findings.append(Finding.note(sentence))
        return tiles

    def _with_shared_labels(self, split: str, images: FilesById, labels: FilesById) -> Sequence[SourceTile]:
        shared = self.config.shared_labels
        if labels:
            problem = f"expected no labels in folders, because dataset.yaml names {printable(shared)} for all images"
            action = "remove labels from dataset.yaml, or the folder of labels"
            self._add(DataError(self._where(split, "labels"), f"{problem}; found {len(labels)}", action), split)
        label = SourceFile(shared, 0)
        return tile_list(
            SourceTile(split, tile_id, image, label, shares_label=True) for tile_id, image in images.in_order()
        )

    def _expected(self, split: str, role: str, tile_id: str, siblings: FilesById, other: SourceFile) -> str:
        """The path at which an image or label would belong to a tile, called as its siblings are."""
        # The siblings are being drained: only the first ones can still be read.
        suffix = split_suffix(next(siblings.in_order())[1].path)[1] if siblings else SUFFIXES[role][0]
        *areas, core = tile_id.split(AREA_SEPARATOR) if self._has_areas(split) else [tile_id]
        key = "" if (split, role) not in self.layout.folders and ("", role) in self.layout.folders else split
        names = [areas.pop(0) if name == "*" and areas else name for name in self.layout.template(key, role)]
        return "/".join((*names, *areas, self.naming.sibling(role, core, stem_of(other.path)) + suffix))

    def _has_areas(self, split: str) -> bool:
        folders = [self.layout.folders.get((key, role), []) for key in (split, "") for role in ROLES]
        return self.naming.with_areas and any(folder.area for held in folders for folder in held)

    def _remark(self) -> None:
        """Say in one note what was understood, and in one what was not used."""
        if self.is_paired and (self.naming.images or self.naming.labels):
            names = [
                f"{role} are called {affixes}"
                for role, affixes in (("images", self.naming.images), ("labels", self.naming.labels))
                if affixes
            ]
            self.remarks.append(f"{' and '.join(names)}: their tiles' ids are without it")
        example = next((tile.id for tiles in self.result.tiles.values() for tile in tiles), "")
        if any(folder.area for held in self.layout.folders.values() for folder in held) and example:
            parts = "are part of" if self.naming.with_areas else "are no part of"
            self.remarks.append(f"the folders' names {parts} tile ids ({printable(example)})")
        if self.remarks:
            self.result.findings.append(Finding.note(f"layout: {'; '.join(self.remarks)}"))
        tables = {file.path for file in self.layout.lists if file.path.lower().endswith(TABLE_SUFFIXES)}
        if others := [printable(path) for path in (*self.layout.others, *sorted(tables - self.divider.used_lists))]:
            one = len(others) == 1
            what = "1 other file is not used:" if one else f"{len(others)} other files are not used, the first is"
            self.result.findings.append(Finding.note(f"{what} {others[0]}"))
