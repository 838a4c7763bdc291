"""What the name of a folder says: a split, a role, both, or neither.

Names are read as words: `Train`, `train_images`, `img_dir`, `leftImg8bit` and `5_Labels_all` all say something. The
plainer of two readings counts, so that in `train/images/test_site` the folder `test_site` is an area.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from dataclasses import dataclass
from enum import IntEnum

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
ROLES = ("images", "labels")
_PLAIN_ROLE_WORDS = {
    "images": ("image", "images", "img", "imgs", "jpegimages", "leftimg8bit"),
    "labels": (
        *("label", "labels", "mask", "masks", "msk", "msks", "gt", "gts", "groundtruth", "gtfine", "gtcoarse"),
        *("ann", "anns", "annot", "annots", "annotation", "annotations", "labelids", "segmentationclass"),
    ),
}
_OTHER_ROLE_WORDS = {
    "images": ("sat", "satellite", "rgb", "irrg", "ortho", "aerial", "top", "scene", "scenes", "input", "inputs"),
    "labels": ("lbl", "lbls", "target", "targets", "seg", "segmap", "segmaps"),
}
_PLAIN = {word: role for role in ROLES for word in _PLAIN_ROLE_WORDS[role]}
_OTHER = {word: role for role in ROLES for word in _OTHER_ROLE_WORDS[role]}
ROLE_WORDS = _PLAIN | _OTHER
"""The role that a word tells of, `images` or `labels`."""
PICTURE_WORDS = frozenset(
    (
        *("color", "colors", "colour", "colours", "rgb", "human", "vis", "visual", "visualization", "visualizations"),
        *("instance", "instances", "instanceids", "object", "objects", "overlay", "preview", "fuse", "save"),
    )
)
"""Of folders and endings that hold pictures of labels, or objects, beside the labels themselves."""
_FILLING = (
    "dir dirs folder folders data set dataset file files list ids names split tile tiles patch patches chip chips crop "
    "crops png tif tiff jpg jpeg bit"
)
_FILLERS = frozenset(_FILLING.split())
"""Words that say nothing: `img_dir` is `img`."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W_0-9a-zA-Z]+")
_SIMILAR = 0.8


class Clarity(IntEnum):
    """How plainly a name says something; the smallest counts."""

    EXACT = 0
    """`train`, `images`."""
    COMPOUND = 1
    """`train_images`, `img_dir`, `images_512`."""
    ALIAS = 2
    """`rgb`, `sat_dir`: words that may also be the name of an area."""
    MENTIONED = 3
    """`flair_aerial_train`, `gts_for_participants`: one word among others."""


@dataclass(frozen=True)
class Said:
    """Something that a name says, and how plainly."""

    what: str
    clarity: Clarity


@dataclass(frozen=True)
class FolderName:
    """The splits and roles that a folder's name tells of: mostly none or one of each."""

    splits: tuple[Said, ...] = ()
    roles: tuple[Said, ...] = ()


def words(name: str) -> list[str]:
    """The words of a name in lower case: those of `leftImg8bit` are left, img, 8 and bit; `ground_truth` is one."""
    found: list[str] = []
    for word in itertools.chain.from_iterable(_parts(part.lower()) for part in _WORD.findall(name)):
        if found and found[-1] + word in _PLAIN:
            found[-1] += word
        else:
            found.append(word)
    return found


def _parts(word: str) -> list[str]:
    """The words of one that is a split and a role: `trainannot` of CamVid."""
    split = next((split for split in SPLIT_WORDS if word.startswith(split) and word[len(split) :] in _PLAIN), "")
    return [split, word[len(split) :]] if split else [word]


@functools.lru_cache(4096)
def read_folder_name(name: str) -> FolderName:
    """What a folder's name says."""
    found = words(name)
    whole = "".join(found)
    if whole in SPLIT_WORDS:
        return FolderName(splits=(Said(SPLIT_WORDS[whole], Clarity.EXACT),))
    if whole in _PLAIN:
        return FolderName(roles=(Said(_PLAIN[whole], Clarity.EXACT),))
    if whole in _OTHER:
        return FolderName(roles=(Said(_OTHER[whole], Clarity.ALIAS),))
    telling = [word for word in found if word not in _FILLERS and not word.isdigit()]
    is_plain = all(word in SPLIT_WORDS or word in ROLE_WORDS for word in telling)
    clarity = Clarity.COMPOUND if is_plain else Clarity.MENTIONED
    splits = dict.fromkeys(SPLIT_WORDS[word] for word in telling if word in SPLIT_WORDS)
    plain = dict.fromkeys(_PLAIN[word] for word in telling if word in _PLAIN)
    if len(plain) > 1 and "and" not in found:  # `label_images`, `train-label-img`
        plain = {"labels": None}
    other = dict.fromkeys(_OTHER[word] for word in telling if word in _OTHER)
    return FolderName(
        tuple(Said(split, clarity) for split in splits),
        tuple(Said(role, clarity) for role in plain)
        or tuple(Said(role, max(clarity, Clarity.ALIAS)) for role in other),
    )


def mentions_labels(name: str) -> bool:
    """Whether a file's name says that it is a label: `LabelWater`, `t0_mask`."""
    return not {"label", "labels", "mask", "masks", "groundtruth"}.isdisjoint(words(name))


def is_of_labels(name: str) -> bool:
    """Whether a folder is one of labels by its last word: `Semantic_masks` is, `gts_for_participants` need not be."""
    telling = [word for word in words(name) if word not in _FILLERS and not word.isdigit()]
    return bool(telling) and _PLAIN.get(telling[-1]) == "labels"


def plainest(sayings: list[Said]) -> tuple[set[str], Clarity | None]:
    """What the plainest of several readings say: one thing, or several that contradict each other."""
    if not sayings:
        return set(), None
    clarity = min(said.clarity for said in sayings)
    return {said.what for said in sayings if said.clarity == clarity}, clarity


def similar_name(name: str) -> str:
    """The accepted name that a folder's name is a slip of, spelt as documented: `val` for `vaildation`; "" if none."""
    accepted = {**SPLIT_WORDS, **_PLAIN}
    whole = "".join(words(name))
    if read_folder_name(name) != FolderName():
        return ""
    near = [word for word in accepted if word[:1] == whole[:1] and abs(len(word) - len(whole)) <= 1]
    close = difflib.get_close_matches(whole, near, 1, _SIMILAR)
    return accepted[close[0]] if close else ""
