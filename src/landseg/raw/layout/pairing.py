"""Pairs of image and label, and the files that belong to no pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import DataError, printable
from landseg.raw.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.georeference.sidecars import list_sidecars, sidecars_of
from landseg.raw.layout.band_files import join_bands, unjoined_bands
from landseg.raw.layout.folder_names import similar_name
from landseg.raw.layout.folders import ROLES, Layout, understand
from landseg.raw.layout.pairing_problems import file_problem, first_names, unpaired, unsuitable
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.layout.split_lists import TileFinder, find_lists, splits_of
from landseg.raw.layout.strays import counted
from landseg.raw.layout.suffixes import SUFFIXES, split_suffix
from landseg.raw.layout.tile_names import AREA_SEPARATOR, Naming, declared_naming, find_naming, stem_of
from landseg.raw.sources.source import Source, SourceFile

LABELLED_SPLITS = ("train", "val")
_SHOWN = 3

_LISTS = "list their names in train.txt and val.txt next to dataset.yaml, one a line, or make folders"

ById = dict[str, SourceFile]


@dataclass
class Pairing:
    """The tiles of a source, split by split in order of id, and what there is to say about its files."""

    tiles: dict[str, list[SourceTile]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add_sidecars(self, files: Iterable[SourceFile]) -> None:
        """Find the files that say where images lie among the source's."""
        if listed := list_sidecars(files):
            for tiles in self.tiles.values():
                for position, tile in enumerate(tiles):
                    if sidecars := sidecars_of(tile.image.path, listed):
                        tiles[position] = replace(tile, sidecars=sidecars)


def pair(source: Source, files: Sequence[SourceFile], config: DatasetConfig) -> Pairing:
    """Understand the layout, pair images and labels by name, and collect everything that does not fit."""
    layout = understand(source, files)
    if config.band_files:
        layout.findings += join_bands(source, layout, config)
    pairing = _Pairer(source, layout, config).pair()
    pairing.add_sidecars(files)
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
        # What is missing may then be what is not understood.
        self.is_unclear = any(finding.severity == "error" for finding in layout.findings)
        if not config.band_files and (error := unjoined_bands(source, layout, self.is_paired)):
            self.result.findings.append(error)
            self.is_unclear = True

    def pair(self) -> Pairing:
        """The tiles and findings."""
        found = self._collect()
        if self.layout.has_shared_labels:
            found = self._shared(found)
        elif any(split == "" for split, _ in self.layout.folders):
            found = self._divided(found)
        present = self.layout.present.keys() | {split for split, _ in found}
        for split in SPLITS:
            if split in present:
                self.result.tiles[split] = self._pair_split(
                    split, found.get((split, "images"), {}), found.get((split, "labels"), {})
                )
        if self.config.shared_labels and not any(self.result.tiles.get(split) for split in LABELLED_SPLITS):
            problem = "expected images of train or val for the labels that dataset.yaml names, found none"
            self._add(DataError(self.source.uri, problem, f"{_LISTS} train and val with images in each"))
        self._remark()
        return self.result

    def _collect(self) -> dict[tuple[str, str], ById]:
        """Files by split, role and id; those that cannot be used become findings."""
        found: dict[tuple[str, str], ById] = {}
        others: dict[tuple[str, str], list[SourceFile]] = defaultdict(list)
        unnamed: dict[str, list[SourceFile]] = defaultdict(list)
        for (split, role), folders in self.layout.folders.items():
            by_id = found[split, role] = {}
            for folder in folders:
                for file in folder.files:
                    if not file.path.lower().endswith(SUFFIXES[role]):
                        others[split, role].append(file)
                        continue
                    tile_id = self.naming.tile_id(folder, stem_of(file.path))
                    if tile_id is None:
                        unnamed[role].append(file)
                    elif wrong := file_problem(file, tile_id, by_id.get(tile_id)):
                        where = self.source.where(printable(file.path))
                        self._add(DataError(where, *wrong), split, printable(tile_id) or printable(file.path))
                    else:
                        by_id[tile_id] = file
        for (split, role), files in others.items():
            self._add(unsuitable(self._where(split, role), role, files), split)
        for role, files in unnamed.items():
            suffix = self.config.image_suffix if role == "images" else self.config.label_suffix
            self.remarks.append(f"{counted(files)} among the {role} do not end in {suffix} and are not used")
        return found

    def _folder(self, split: str, role: str) -> str:
        """The folder of a role, where files are divided by lists too."""
        key = "" if (split, role) not in self.layout.folders and ("", role) in self.layout.folders else split
        return printable(self.layout.where(key, role))

    def _where(self, split: str, role: str) -> str:
        return self.source.where(self._folder(split, role))

    def _add(self, error: DataError, split: str = "", tile_id: str = "") -> None:
        self.result.findings.append(Finding.of(error, split, tile_id))

    def _shared(self, found: dict[tuple[str, str], ById]) -> dict[tuple[str, str], ById]:
        """Labels that lie in one folder for all splits go to the split of their image."""
        labels = found.pop(("", "labels"))
        splits: dict[str, str] = {}
        twice: list[str] = []
        for split in SPLITS:
            images = found.get((split, "images"), {})
            again = (tile_id for tile_id in images if tile_id in splits and tile_id in labels)
            twice += [f"{tile_id} (in {splits[tile_id]} and {split})" for tile_id in again]
            splits.update(dict.fromkeys(images, split))
            if split in LABELLED_SPLITS or not images.keys().isdisjoint(labels):
                found[split, "labels"] = {tile_id: labels[tile_id] for tile_id in images if tile_id in labels}
        where = self._where("", "labels")
        if twice:
            problem = f"expected each label to belong to one image, found {len(twice)} tiles in two splits: "
            action = "keep each image in one split, or make a folder of labels for each split"
            self._add(DataError(where, f"{problem}{first_names(twice)}", action))
        if alone := sorted(labels.keys() - splits.keys()):
            said = f"{len(alone)} labels without image: {first_names(alone)}"
            if self.config.labels_without_image == "skip":
                self.result.findings.append(Finding.note(f"{said}; they are left out"))
            else:
                action = "remove the labels, or set labels_without_image: skip in dataset.yaml"
                self._add(DataError(where, f"expected an image for each label, found {said}", action))
        return found

    def _divided(self, found: dict[tuple[str, str], ById]) -> dict[tuple[str, str], ById]:
        """Files whose folders name no split, divided by lists."""
        images, labels = found.get(("", "images"), {}), found.get(("", "labels"), {})
        rest = {key: files for key, files in found.items() if key[0]}
        if labels and not images:
            elsewhere = f", but {first_names(self.layout.unrelated)}" if self.layout.unrelated else ""
            problem = f"expected a folder of images next to {self._folders()}, found none{elsewhere}"
            self._add(DataError(self.source.uri, problem, "rename the folder of the images to images"))
            return rest
        lists = find_lists(self.layout.lists)
        if not lists:
            if labels:
                here = f"{len(images)} images and {len(labels)} labels"
                problem = f"expected train, val and test to be told apart, found {here} in {self._folders()}"
                action = self._misspelt() or f"{_LISTS} train and val with images and labels in each"
                self._add(DataError(self.source.uri, problem, action))
                return rest
            if images:
                self.remarks.append("images without labels are test")
            return rest | {("test", "images"): images}
        splits, findings = splits_of(self.source, lists, TileFinder(images.keys(), self.naming))
        self.result.findings += findings
        for (_, role), files in found.items():
            for tile_id, file in files.items():
                if tile_id in splits:
                    rest.setdefault((splits[tile_id], role), {})[tile_id] = file
        if unlisted := [file for files in (images, labels) for tile_id, file in files.items() if tile_id not in splits]:
            sentence = f"{counted(unlisted)} in no list and not used: {first_names([file.path for file in unlisted])}"
            self.result.findings.append(Finding("", sentence, severity="warning"))
        said = (f"{split} from {printable(lists[split][0].path)}" for split in SPLITS if split in lists)
        self.remarks.append(", ".join(said))
        return rest

    def _misspelt(self) -> str:
        """What to rename where folders are nearly called as splits."""
        paths = [folder.path for held in self.layout.folders.values() for folder in held]
        near = {name: similar_name(name) for path in paths for name in path.split("/")}
        said = [f"{printable(name)} to {split}" for name, split in near.items() if split in SPLITS]
        return f"rename {', '.join(said)}" if said else ""

    def _folders(self) -> str:
        found = (printable(self.layout.where("", role)) for role in ROLES if ("", role) in self.layout.folders)
        return " and ".join(dict.fromkeys(name or "the dataset's own folder" for name in found))

    def _pair_split(self, split: str, images: ById, labels: ById) -> list[SourceTile]:
        is_explained = self.is_unclear or any(
            finding.split == split and not finding.tile_id for finding in self.result.findings
        )
        if not images:
            if not is_explained:
                problem = f"empty split: expected images ({', '.join(SUFFIXES['images'])}), found none"
                action = f"add images, or remove the folder of {split}"
                self._add(DataError(self._where(split, "images"), problem, action), split)
            return []
        if self.config.shared_labels and split in LABELLED_SPLITS:
            return self._with_shared_labels(split, images, labels)
        is_labelled = split in LABELLED_SPLITS or bool(labels)
        if is_labelled and images.keys().isdisjoint(labels):
            if not is_explained:
                self._add(unpaired(self._where(split, "labels"), split, images, labels), split)
            return []
        tiles = []
        wrong = {finding.tile_id for finding in self.result.findings if finding.split == split}
        for tile_id in sorted((images.keys() | labels.keys()) - wrong):
            image, label = images.get(tile_id), labels.get(tile_id)
            if image is not None and (label is not None or not is_labelled):
                tiles.append(SourceTile(split, tile_id, image, label))
            elif image is not None:
                problem = f"image without label: expected {self._expected(split, 'labels', tile_id, images, labels)}"
                other = "move the image to test" if split != "test" else "remove all labels of test"
                self._add(
                    DataError(self.source.where(image.path), problem, f"add the label, or {other}"), split, tile_id
                )
            elif self.config.labels_without_image == "error":
                problem = f"label without image: expected {self._expected(split, 'images', tile_id, images, labels)}"
                action = "add the image, remove the label, or set labels_without_image: skip in dataset.yaml"
                self._add(DataError(self.source.where(labels[tile_id].path), problem, action), split, tile_id)
        if self.config.labels_without_image == "skip" and (alone := labels.keys() - images.keys()):
            sentence = f"{len(alone)} labels of {split} have no image and are left out: {first_names(sorted(alone))}"
            self.result.findings.append(Finding.note(sentence))
        return tiles

    def _with_shared_labels(self, split: str, images: ById, labels: ById) -> list[SourceTile]:
        shared = self.config.shared_labels
        if labels:
            problem = f"expected no labels in folders, because dataset.yaml names {printable(shared)} for all images"
            action = "remove labels from dataset.yaml, or the folder of labels"
            self._add(DataError(self._where(split, "labels"), f"{problem}; found {len(labels)}", action), split)
        label = SourceFile(shared, 0)
        return [
            SourceTile(split, tile_id, image, label, shares_label=True) for tile_id, image in sorted(images.items())
        ]

    def _expected(self, split: str, role: str, tile_id: str, images: ById, labels: ById) -> str:
        """The path at which an image or label would belong to a tile, called as its siblings are."""
        siblings = images if role == "images" else labels
        affixes = self.naming.images if role == "images" else self.naming.labels
        suffix = split_suffix(next(iter(siblings.values())).path)[1] if siblings else SUFFIXES[role][0]
        *areas, core = tile_id.split(AREA_SEPARATOR) if self._has_areas(split) else [tile_id]
        key = "" if (split, role) not in self.layout.folders and ("", role) in self.layout.folders else split
        names = [areas.pop(0) if name == "*" and areas else name for name in self.layout.template(key, role)]
        return "/".join((*names, *areas, affixes.around(core) + suffix))

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
        if others := [printable(path) for path in self.layout.others]:
            one = len(others) == 1
            what = "1 other file is not used:" if one else f"{len(others)} other files are not used, the first is"
            self.result.findings.append(Finding.note(f"{what} {others[0]}"))
