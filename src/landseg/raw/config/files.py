"""The fields of `dataset.yaml` that say which files are images, labels and splits, where names alone do not tell."""

from __future__ import annotations

import posixpath
import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from landseg.contracts.dataset import SPLITS, Split
from landseg.contracts.documents import Model, RelativePath

LIST_SUFFIXES = (".txt", ".lst", ".csv", ".tsv")
"""Of files that may list the tiles of a split."""

NamePart = Annotated[
    str, Field(max_length=100, pattern=r"^[^/\\]*$"), AfterValidator(lambda text: unicodedata.normalize("NFC", text))
]


class FileFields(Model):
    """The fields of :class:`landseg.raw.config.dataset_yaml.DatasetConfig` that are about files alone.

    A dataset's id is made of its tiles, so these are no part of it.

    Attributes:
        image_folder, label_folder: the folder that holds the images or labels: its name, or the last names of its path.
        image_prefix, label_prefix: what the names of image and label files begin with, before the tile's name.
        image_suffix, label_suffix: what the names of image and label files end with, after the tile's name.
        image_infix, label_infix: a part in the middle of their names that tells them apart, between `_`, `-`, `.`.
        splits: folders and lists of each split: (split, names or paths), in place of what folders' names say.
        labels_without_image: whether they are errors or left out.
    """

    image_folder: RelativePath | None = Field(default=None, exclude=True)
    label_folder: RelativePath | None = Field(default=None, exclude=True)
    image_prefix: NamePart = Field(default="", exclude=True)
    label_prefix: NamePart = Field(default="", exclude=True)
    image_suffix: NamePart = Field(default="", exclude=True)
    label_suffix: NamePart = Field(default="", exclude=True)
    image_infix: NamePart = Field(default="", exclude=True)
    label_infix: NamePart = Field(default="", exclude=True)
    splits: tuple[tuple[Split, tuple[RelativePath, ...]], ...] = Field(default=(), exclude=True)
    labels_without_image: Literal["error", "skip"] = Field(default="error", exclude=True)

    @field_validator("image_folder", "label_folder", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        return _normal(value) if isinstance(value, str) else value

    @field_validator("splits", mode="before")
    @classmethod
    def _of_splits(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            example = "{train: lists/train.txt, val: lists/val.txt, test: unseen}"
            raise ValueError(f"expected a list or folder for each split, such as {example}")
        if unknown := [str(split) for split in value if split not in SPLITS]:
            raise ValueError(f"expected splits of {', '.join(SPLITS)}, found {unknown[0]}")
        return tuple(
            (split, tuple(_normal(str(name)) for name in (names if isinstance(names, list) else [names])))
            for split, names in value.items()
        )

    @model_validator(mode="after")
    def _different(self) -> Self:
        named = [name for _, names in self.splits for name in names]
        if twice := next((name for name in named if named.count(name) > 1), ""):
            raise ValueError(f"splits: expected each list and folder in one split, found {twice} more than once")
        if self.image_folder is not None and self.image_folder == self.label_folder:
            raise ValueError(
                "image_folder and label_folder must differ: files of one folder are told by their suffixes"
            )
        return self

    @property
    def split_folders(self) -> dict[str, str]:
        """The split of each folder that `splits` names."""
        return {name: split for split, names in self.splits for name in names if not is_list(name)}

    @property
    def split_lists(self) -> dict[str, str]:
        """The split of each list that `splits` names."""
        return {name: split for split, names in self.splits for name in names if is_list(name)}


def is_list(name: str) -> bool:
    """Whether a file of this name may list tiles."""
    return name.lower().endswith(LIST_SUFFIXES)


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/").strip("/")))
