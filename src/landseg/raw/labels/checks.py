"""What is staged of a tile's label, from its own file or from that of all images, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

from landseg.contracts.errors import DataError, without_traceback
from landseg.raw.commands import file_name, python_command
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.expected import Expected
from landseg.raw.georeference.alignment import alignment_error
from landseg.raw.georeference.sidecars import with_sidecars
from landseg.raw.georeference.tags import Georeference
from landseg.raw.images.decoded import DecodedImage
from landseg.raw.images.pam import sidecar_nodata
from landseg.raw.images.remarks import about_label_orientation, remarks_on_sidecars
from landseg.raw.labels.files import place_of_label, read_label
from landseg.raw.labels.grid import label_on_grid
from landseg.raw.labels.headed import with_its_header
from landseg.raw.labels.rule import StagedLabel
from landseg.raw.labels.unknown.errors import unknown_labels_error
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.files import LabelFiles
from landseg.raw.sources.source import Source
from landseg.raw.tiff.checks import MAX_DECODED_BYTES

_TURNED_BACK = {5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
"""What takes an image as it is shown to one as it is stored, by the Orientations that exchange rows and columns."""


def stage_label(
    source: Source,
    expected: Expected,
    tile: SourceTile,
    label: LabelFiles | None,
    image: DecodedImage | None,
    limit: int = MAX_DECODED_BYTES,
) -> tuple[StagedLabel | None, list[DataError]]:
    """What is staged of a tile's label, and what is wrong with it.

    Args:
        source: the dataset.
        expected: what the label must be.
        tile: the tile.
        label: its own label; None without one.
        image: its image; None where that is damaged.
        limit: the most bytes that the label may take decoded.
    """
    if tile.label is None:
        return None, []
    size = None if image is None else (image.values.shape[0], image.values.shape[1])
    place = None if image is None else Georeference(image.transform, image.crs)
    rule = expected.label_rule
    try:
        if label is None:
            where = source.where(tile.image.path)
            if size is None or place is None or expected.shared_labels is None:
                return None, []
            staged = expected.shared_labels.of_image(tile.image.path, place, size, rule, where)
            return staged, _label_errors(staged, image, where, expected)
        where = source.where(tile.label.path)
        data = with_its_header(label.data, label.header, where)
        stored = read_label(data, where, limit=limit)
        own = Georeference() if place is None else place_of_label(data, where)
        own, problems = with_sidecars(own, label.sidecars.items())
        nearest = expected.config.resamples_labels and own.transform is not None
        if size is not None and place is not None and (nearest or stored.size != size):
            stored = label_on_grid(stored, own, place, size, where, nearest=nearest)
        staged = rule.stage(stored, where)
        is_unchanged = staged.is_unchanged and data is label.data
        remarks = remarks_on_sidecars(problems) + about_label_orientation(stored.orientation, tile.label.path)
        nodata = stored.nodata if stored.nodata is not None else sidecar_nodata(label.sidecars).get(1)
        staged = replace(staged, is_unchanged=is_unchanged, nodata=nodata, remarks=remarks)
        errors = _label_errors(staged, image, where, expected)
        if place is not None and staged.size == size and stored.size == size and not nearest:
            image_where, ignored = source.where(tile.image.path), _stored_ignored(expected.config)
            error = None if stored.is_cut else alignment_error(own, place, staged.size, where, image_where, ignored)
            errors += [] if error is None else [error]
        return staged, errors
    except DataError as err:
        return None, [without_traceback(err)]


def _stored_ignored(config: DatasetConfig) -> int:
    """A value that labels may hold where nothing is known."""
    return next((first for first, _, name in config.label_values or () if name is None), config.ignore_index)


def _label_errors(label: StagedLabel, image: DecodedImage | None, where: str, expected: Expected) -> list[DataError]:
    """What is wrong with a decoded label; `image` is None where that is damaged."""
    errors: list[DataError] = []
    if label.unknown is not None:
        errors.append(unknown_labels_error(label.unknown, where, expected.config))
    if image is not None and label.size != (size := (image.values.shape[0], image.values.shape[1])):
        found = f"found {label.size[0]}x{label.size[1]}"
        problem = f"label and image differ in size: expected {size[0]}x{size[1]} px as in the image, {found}"
        errors.append(DataError(where, problem, _size_advice(label.size, size, image.orientation, where)))
    return errors


def _size_advice(label: tuple[int, int], image: tuple[int, int], orientation: int, where: str) -> str:
    """How to bring a label without a georeference onto the pixels of an image that viewers may show turned."""
    name = file_name(where)
    if label == image[::-1] and orientation in _TURNED_BACK:
        command = _by_pillow(f"transpose(Image.Transpose.{_TURNED_BACK[orientation]})", name)
        return f"the image's Orientation is {orientation}: if the label fits what viewers show, turn it back: {command}"
    if label == image[::-1]:
        command = _by_pillow("transpose(Image.Transpose.TRANSPOSE)", name)
        return f"if it was saved with rows and columns exchanged, exchange them: {command}"
    if any(_is_multiple(one, other) for one, other in ((label, image), (image, label))):
        command = _by_pillow(f"resize(({image[1]}, {image[0]}), Image.Resampling.NEAREST)", name)
        return f"if it covers the same ground, give it the image's size: {command}"
    return "cut both to the same ground, and to the same size"


def _by_pillow(call: str, name: str) -> str:
    """What writes what a method of Pillow's images returns in the place of a file."""
    code = f"import sys; from PIL import Image; Image.open(sys.argv[1]).{call}.save(sys.argv[1])"
    return python_command(code, name)


def _is_multiple(large: tuple[int, int], small: tuple[int, int]) -> bool:
    """Whether a size is a whole number of times another, the same in both directions."""
    times = large[0] // max(1, small[0])
    return times > 1 and large == (times * small[0], times * small[1])
