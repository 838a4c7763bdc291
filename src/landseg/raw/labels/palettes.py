"""Palettes of labels: where they contradict each other, the colours tell the class and the indexes do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.rule import UsedColours
from landseg.raw.labels.unknown.colours import colour_map_place, colour_meanings, hex_colour
from landseg.raw.labels.unknown.proposals import NAME, NAME_MEANS, flow_map


class LabelPalettes:
    """The colours of the indexes that labels use, file by file.

    Args:
        config: `dataset.yaml`.
    """

    def __init__(self, config: DatasetConfig) -> None:
        self._config = config
        self._files: dict[int, dict[int, str]] = {}

    def add(self, used: UsedColours, where: str) -> None:
        """Look at the (index, colour) pairs that a label uses.

        A grey ramp is no palette; nor does a colour that several indexes share tell the class.
        """
        pairs = [(index, colour) for index, colour in used if index != self._config.ignore_index]
        if all(colour == index * 0x010101 for index, colour in pairs):
            return
        uses = Counter(colour for _, colour in pairs)
        for index, colour in pairs:
            if uses[colour] == 1:
                self.note(colour, index, where)

    def note(self, colour: int, index: int, where: str) -> None:
        """Note that a label's palette gives a colour to an index; of several files, the first counts."""
        self._files.setdefault(colour, {}).setdefault(index, where)

    def used(self) -> Iterator[tuple[int, int, str]]:
        """(colour, index, first file) of what was noted."""
        for colour, files in self._files.items():
            for index, where in files.items():
                yield colour, index, where

    def errors(self, source_uri: str) -> Iterator[DataError]:
        """The contradictions as one error; none where dataset.yaml says what counts."""
        config = self._config
        if config.label_values is not None or config.label_colours is not None:
            return
        meanings = colour_meanings(config)
        meant = {colour: config.label_offset + config.classes.index(name) for colour, name in meanings.items()}
        for colour, files in self._files.items():
            (index, where), *others = files.items()
            if others:
                found = f"{_index(index, where, source_uri)}, and {_index(*others[0], source_uri)}"
                problem = f"palettes of labels contradict each other: {hex_colour(colour)} has {found}"
            elif colour in meant and index != meant[colour]:
                found = f"{hex_colour(colour)} has {_index(index, where, source_uri)}"
                problem = (
                    f"palettes of labels contradict dataset.yaml: {found}, and is the colour of {meanings[colour]}"
                )
            else:
                continue
            yield DataError(source_uri, problem, self._advice())
            return

    def _advice(self) -> str:
        config = self._config
        meanings = colour_meanings(config)
        colours = {hex_colour(colour): meanings.get(colour, NAME) for colour in (*meanings, *self._files)}
        values = {config.label_offset + index: name for index, name in enumerate(config.classes)}
        names = f" with {NAME_MEANS}" if NAME in colours.values() else ""
        place = colour_map_place(config)
        by_value = flow_map(values | {config.ignore_index: IGNORE})
        return (
            f"{place}, write label_colours: {flow_map(colours)}{names} if the colours tell the classes, or "
            f"label_values: {by_value} if the indexes do"
        )


def _index(index: int, where: str, source_uri: str) -> str:
    return f"index {index} in {where.removeprefix(f'{source_uri}/')}"
