"""What a dataset's labels are staged as: the values of `dataset.yaml`'s classes, whatever the files store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.images.remarks import Remark
from landseg.raw.labels.near_colours import NearColours
from landseg.raw.labels.stored_label import StoredLabel, packed_colours

_CHUNK_PX = 1 << 20
_MAX_DISTINCT = 1000
"""More values than this in one label are no classes, but an image or measurements."""
_IGNORED = 255
"""What ignored pixels are staged as where there is a label map; see :meth:`DatasetConfig.class_schema`."""


UsedColours = tuple[tuple[int, int], ...]
"""(index, colour as 0xRRGGBB) of a palette's entries that a label uses."""


@dataclass(frozen=True)
class UnknownLabels:
    """Values or colours of a label that mean nothing.

    Attributes:
        kind: whether they are values or colours (0xRRGGBB).
        unknown: (value, pixels), by value.
        known: (staged value, pixels) of the others.
    """

    kind: Literal["values", "colours"]
    unknown: tuple[tuple[int, int], ...]
    known: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class StagedLabel:
    """A label as it is staged.

    Attributes:
        values: (H, W) uint8, or uint16 of a TIFF: staged values; 0 where unknown, unless it is unchanged.
        counts: (staged value, pixels), by value; with those of unknown values where it is unchanged.
        is_unchanged: whether the file's own bytes are staged.
        unknown: what means nothing; None where everything means something.
        num_no_data_px: pixels without a value (transparent, or not a number), which are ignored.
        num_near_px: pixels whose colour is near to one that means something, as `colour_tolerance` allows.
        num_overlap_px: pixels in polygons of several classes, of which the last one counts.
        used_colours: the colours that its palette gives to the indexes that it holds.
        nodata: the nodata value that its file declares.
        remarks: about the files next to it.
    """

    values: NDArray[Any]
    counts: tuple[tuple[int, int], ...]
    is_unchanged: bool
    unknown: UnknownLabels | None = None
    num_no_data_px: int = 0
    num_near_px: int = 0
    num_overlap_px: int = 0
    used_colours: UsedColours = ()
    nodata: float | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.values.shape[0], self.values.shape[1]


class LabelRule:
    """Stages labels as `dataset.yaml` says.

    Args:
        config: `dataset.yaml`.

    Attributes:
        ignored: what ignored pixels are staged as.
        staged_classes: what classes are staged as, by name; under None, what is ignored.
    """

    def __init__(self, config: DatasetConfig) -> None:
        label_map = config.label_map
        self._maps_colours = config.label_colours is not None
        self._maps_values = config.label_values is not None or not self._maps_colours
        self._is_plain = label_map is None
        self.ignored = config.ignore_index if label_map is None else _IGNORED
        first = config.label_offset if label_map is None else 0
        self._classes, self._first = config.classes, first
        staged: dict[str | None, int] = {name: first + index for index, name in enumerate(config.classes)}
        staged[None] = self.ignored
        self.staged_classes = staged
        self._own_values = frozenset(staged.values())
        if label_map is None:
            self._values = _Table((value, value, value) for value in sorted(staged.values()))
        else:
            self._values = _Table((low, high, staged[name]) for low, high, name in label_map.values)
        self._shared_colour = ""
        if label_map is not None and label_map.colours:
            colours = {int(colour[1:], 16): staged[name] for colour, name in label_map.colours}
        else:
            colours = {}
            for (red, green, blue), name in zip(config.palette or (), config.classes, strict=bool(config.palette)):
                colour = red << 16 | green << 8 | blue
                if colour in colours:
                    self._shared_colour = f"#{colour:06x}"
                colours[colour] = staged[name]
        self._colours = _Table((colour, colour, value) for colour, value in sorted(colours.items()))
        self._near = NearColours(colours, config.colour_tolerance)

    def class_of(self, value: float) -> str | None:
        """The class that a stored value means; None where it means none, or is ignored."""
        if not self._maps_values or not float(value).is_integer() or not self._values.knows(int(value)):
            return None
        staged = int(self._values.lookup(np.array([int(value)]))[0][0])
        return None if staged == self.ignored else self._classes[staged - self._first]

    def staged_value(self, value: int) -> int | None:
        """What a stored value is staged as; None where it means nothing."""
        staged, known = self._values.lookup(np.array([value]))
        return int(staged[0]) if known[0] else None

    def stage(self, label: StoredLabel, where: object) -> StagedLabel:
        """Stage a label.

        Raises:
            DataError: it holds more values than there can be classes, indexes without a colour, or a colour that
                `palette` gives to two classes.
        """
        kind: Literal["values", "colours"] = "values"
        values, table = label.values, self._values
        if label.kind == "colours":
            if self._shared_colour:
                problem = f"the label holds colours, and the palette gives {self._shared_colour} to two classes"
                raise DataError(where, problem, "map colours to classes by label_colours in dataset.yaml")
            kind, table = "colours", self._colours
        elif label.kind == "indexes" and self._maps_colours:
            kind, table, values = "colours", self._colours, _colours_of_indexes(label, where)
        elif not self._maps_values and values.dtype == np.uint8:
            kind, table, values = "colours", self._colours, values.astype(np.uint32) * np.uint32(0x010101)
        if self._is_plain and label.is_plain and kind == "values":
            counts = value_counts(values)
            own = self._own_values
            unknown = tuple((value, number) for value, number in counts if value not in own)
            known = tuple((value, number) for value, number in counts if value in own)
            return StagedLabel(
                values,
                counts,
                True,
                UnknownLabels(kind, unknown, known) if unknown else None,
                used_colours=() if label.palette is None else _used_colours(label.palette, counts),
            )
        staged = self._map(values, table, kind, label.no_data, where)
        if label.palette is None or kind == "colours":
            return staged
        return replace(staged, used_colours=_used_colours(label.palette, value_counts(values)))

    def _map(
        self,
        values: NDArray[Any],
        table: _Table,
        kind: Literal["values", "colours"],
        no_data: NDArray[np.bool_] | None,
        where: object,
    ) -> StagedLabel:
        staged = np.empty(values.shape, np.uint8)
        found: dict[int, int] = {}
        num_known = np.zeros(256, np.int64)
        num_no_data = num_near = 0
        rows = max(1, _CHUNK_PX // max(1, values.shape[1]))
        for start in range(0, values.shape[0], rows):
            part = np.s_[start : start + rows]
            staged[part], is_known = table.lookup(values[part])
            if no_data is not None:
                staged[part][no_data[part]] = self.ignored
                is_known |= no_data[part]
                num_no_data += int(np.count_nonzero(no_data[part]))
            if kind == "colours" and self._near.tolerance and not is_known.all():
                num_near += self._near.assign(values[part], staged[part], is_known)
            num_known += np.bincount(staged[part][is_known], minlength=256)
            if not is_known.all():
                for value, number in zip(*np.unique(values[part][~is_known], return_counts=True), strict=True):
                    found[int(value)] = found.get(int(value), 0) + int(number)
                if len(found) > _MAX_DISTINCT:
                    problem = f"expected one {kind[:-1]} per class, found more than {_MAX_DISTINCT} different ones"
                    advice = "this looks like an image or like measurements, not like a label"
                    if kind == "colours":
                        advice += "; if lossy compression changed its colours, write colour_tolerance and label_colours"
                    raise DataError(where, problem, advice)
        known = tuple((value, int(number)) for value, number in enumerate(num_known) if number)
        unknown = UnknownLabels(kind, tuple(sorted(found.items())), known) if found else None
        return StagedLabel(staged, known, False, unknown, num_no_data, num_near)


def value_counts(classes: NDArray[Any]) -> tuple[tuple[int, int], ...]:
    """(value, pixels) of the values that occur in an array of uint8 or uint16, by value."""
    counts = Image.fromarray(classes).histogram() if classes.dtype == np.uint8 else np.bincount(classes.ravel())
    return tuple((value, int(count)) for value, count in enumerate(counts) if count)


class _Table:
    """(first, last, staged value) of ranges of stored values, sorted and apart from each other."""

    def __init__(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        entries = list(ranges) or [(0, -1, 0)]
        self._firsts = np.array([first for first, _, _ in entries], np.int64)
        self._lasts = np.array([last for _, last, _ in entries], np.int64)
        self._staged = np.array([staged for _, _, staged in entries], np.uint8)

    def knows(self, value: int) -> bool:
        """Whether a stored value means something."""
        return bool(self.lookup(np.array([value]))[1][0])

    def lookup(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Staged values, 0 where unknown; and where they are known."""
        if values.dtype == np.uint8 and values.size > 256:
            staged, known = self.lookup(np.arange(256))
            return staged[values], known[values]
        position = np.maximum(np.searchsorted(self._firsts, values, side="right") - 1, 0)
        known = (self._firsts[position] <= values) & (values <= self._lasts[position])
        return np.where(known, self._staged[position], np.uint8(0)), known


def _used_colours(palette: NDArray[np.uint8], counts: tuple[tuple[int, int], ...]) -> UsedColours:
    packed = packed_colours(palette[:, np.newaxis])[:, 0]
    return tuple((index, int(packed[index])) for index, _ in counts if index < len(packed))


def _colours_of_indexes(label: StoredLabel, where: object) -> NDArray[np.uint32]:
    assert label.palette is not None, "indexes come with a palette"
    packed: NDArray[np.uint32] = packed_colours(label.palette[:, np.newaxis])[:, 0]
    if label.values.size and (highest := int(label.values.max())) >= len(packed):
        problem = f"expected indexes below the {len(packed)} colours of the palette, found {highest}"
        raise DataError(where, problem, "write the label again")
    colours: NDArray[np.uint32] = packed[label.values]
    return colours
