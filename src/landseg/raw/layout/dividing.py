"""The split of files whose folders do not tell it: that of their image, or of a list of tiles."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import DataError, printable
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.layout.by_id import FilesById, joined
from landseg.raw.layout.folders.layout import Layout
from landseg.raw.layout.folders.names import ROLES, similar_name
from landseg.raw.layout.folders.strays import counted
from landseg.raw.layout.pairing_problems import first_names, unpaired, without_images
from landseg.raw.layout.split_lists import TileFinder, find_lists, lists_among_others, splits_of
from landseg.raw.layout.split_tables import find_table, splits_in_table
from landseg.raw.layout.tile_names import Naming
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import file_list

LABELLED_SPLITS = ("train", "val")
_SHOWN = 3
LISTS_ADVICE = "list their names in train.txt and val.txt next to dataset.yaml, one a line, or make folders"


class Divider:
    """Divides the files of a source among the splits; findings and remarks join those of its layout.

    Args:
        source: the source.
        layout: its layout.
        config: what `dataset.yaml` says.
        naming: how tile ids follow from the names of files.
        is_paired: whether that naming is one that pairs images and labels.

    Attributes:
        used_lists: paths of the lists that were read.
    """

    def __init__(
        self, source: Source, layout: Layout, config: DatasetConfig, naming: Naming, *, is_paired: bool
    ) -> None:
        self.source, self.layout, self.config = source, layout, config
        self.naming, self.is_paired = naming, is_paired
        self.findings, self.remarks = layout.findings, layout.remarks
        self.used_lists: set[str] = set()

    def divide(self, found: dict[tuple[str, str], FilesById]) -> dict[tuple[str, str], FilesById]:
        """Files by split, role and id, from those whose split may be "" where no folder tells it."""
        if self.layout.has_shared_labels:
            return self._by_image(found)
        if self.layout.declared.lists or any(split == "" for split, _ in self.layout.folders):
            return self._by_lists(found)
        return found

    def _add(self, error: DataError) -> None:
        self.findings.append(Finding.of(error))

    def _by_image(self, found: dict[tuple[str, str], FilesById]) -> dict[tuple[str, str], FilesById]:
        """Labels that lie in one folder for all splits go to the split of their image."""
        labels = found.pop(("", "labels"))
        images = [found.get((split, "images"), FilesById()) for split in SPLITS]
        twice: dict[str, list[str]] = {split: [] for split in SPLITS}
        alone: list[str] = []
        for tile_id, (label, *of_splits) in joined(labels, *images):
            in_splits = [split for split, image in zip(SPLITS, of_splits, strict=True) if image is not None]
            if label is not None and not in_splits:
                alone.append(tile_id)
            for first, second in itertools.pairwise(in_splits if label is not None else ()):
                twice[second].append(f"{tile_id} (in {first} and {second})")
        for split, of_split in zip(SPLITS, images, strict=True):
            own = FilesById(
                (tile_id, label)
                for tile_id, (label, image) in joined(labels, of_split)
                if label is not None and image is not None
            )
            if own or (of_split and split in LABELLED_SPLITS):
                found[split, "labels"] = own
        where = self.source.where(printable(self.layout.where("", "labels")))
        if both := [name for split in SPLITS for name in twice[split]]:
            problem = f"expected each label to belong to one image, found {len(both)} tiles in two splits: "
            action = "keep each image in one split, or make a folder of labels for each split"
            self._add(DataError(where, f"{problem}{first_names(both)}", action))
        if alone:
            said = f"{len(alone)} labels without image: {first_names(alone)}"
            if self.config.labels_without_image == "skip":
                self.findings.append(Finding.note(f"{said}; they are left out"))
            else:
                action = "remove the labels, or set labels_without_image: skip in dataset.yaml"
                self._add(DataError(where, f"expected an image for each label, found {said}", action))
        return found

    def _by_lists(self, found: dict[tuple[str, str], FilesById]) -> dict[tuple[str, str], FilesById]:
        """Files whose folders name no split, divided by lists."""
        images, labels = (found.get(("", role), FilesById()) for role in ROLES)
        rest = {key: files for key, files in found.items() if key[0]}
        if labels and not images:
            self._add(without_images(self.source.uri, self.layout, self._folders(), len(labels)))
            return rest
        if self.layout.declared.lists:
            lists, findings = self.layout.declared.lists_of_splits(self.source, self.layout.lists)
            self.findings += findings
        else:
            lists = find_lists(self.layout.lists)
        table = None if lists or self.layout.declared.lists else find_table(self.source, self.layout.lists)
        if not lists and table is None:
            if labels:
                here = f"{len(images)} images and {len(labels)} labels"
                problem = f"expected train, val and test to be told apart, found {here} in {self._folders()}"
                action = (
                    self._misspelt() or f"{LISTS_ADVICE} train and val with images and labels in each{self._tables()}"
                )
                self._add(DataError(self.source.uri, problem, action))
                return rest
            if images:
                self.remarks.append("images without labels are test")
            return rest | {("test", "images"): images}
        if labels and not self.is_paired:
            self._add(unpaired(self.source.uri, "", images, labels))
            return rest
        is_declared = bool(self.layout.declared.lists)
        finder = TileFinder(images.keys(), self.naming)
        if table is None:
            listed = splits_of(self.source, lists, finder, takes_several=is_declared)
        else:
            listed = splits_in_table(self.source, *table, finder)
            lists = {split: [table[0]] for split in SPLITS if split in listed.splits.values()}
        splits = listed.splits
        self.findings += listed.findings
        self.remarks += listed.remarks
        self.used_lists = {file.path for of_split in lists.values() for file in of_split}
        for role in ROLES:
            of_role = [files for (_, other), files in found.items() if other == role]
            for split in dict.fromkeys(splits.values()):
                listed_files = _listed(split, splits, rest.get((split, role), FilesById()), of_role)
                if listed_files:
                    rest[split, role] = listed_files
        unlisted = file_list(
            file for files in (images, labels) for tile_id, file in files.in_order() if tile_id not in splits
        )
        if unlisted:
            names = [file.path for file in unlisted[: _SHOWN + 1]]
            sentence = f"{counted(unlisted)} in no list and not used: {first_names(names)}"
            self.findings.append(Finding("", sentence, severity="warning"))
        paths = {split: " and ".join(printable(file.path) for file in files) for split, files in lists.items()}
        self.remarks.append(", ".join(f"{split} from {paths[split]}" for split in SPLITS if split in paths))
        return rest

    def _misspelt(self) -> str:
        """What to rename where folders are nearly called as splits."""
        paths = [folder.path for held in self.layout.folders.values() for folder in held]
        near = {name: similar_name(name) for path in paths for name in path.split("/")}
        said = [f"{printable(name)} to {split}" for name, split in near.items() if split in SPLITS]
        return f"rename {', '.join(said)}" if said else ""

    def _tables(self) -> str:
        """What to write where files may be lists, but are not called as such."""
        lists = lists_among_others(self.layout.lists)
        said = ", ".join(f"{split}: {printable(path)}" for split, path in lists.items())
        return f"; or write splits: {{{said}}} in dataset.yaml, if these are the lists" if lists else ""

    def _folders(self) -> str:
        found = (printable(self.layout.where("", role)) for role in ROLES if ("", role) in self.layout.folders)
        return " and ".join(dict.fromkeys(name or "the dataset's own folder" for name in found))


def _listed(split: str, splits: Mapping[str, str], others: FilesById, files: Sequence[FilesById]) -> FilesById:
    """The files whose tiles lists give to a split, and the others that the split has anyhow."""
    return FilesById(
        (tile_id, next(file for file in found[::-1] if file is not None))
        for tile_id, (other, *in_lists) in joined(others, *files)
        if any(found := [other, *(file if splits.get(tile_id) == split else None for file in in_lists)])
    )
