"""Pixels and files of the values or colours that mean nothing, over one label or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from landseg.raw.labels.rule import UnknownLabels

MOST_LISTED = 40
"""Values that an error lists; of more it gives the number."""


@dataclass
class LabelCensus:
    """Unknown values or colours of one or several labels.

    Attributes:
        unknown: pixels by value, or by colour (0xRRGGBB).
        known: pixels of the others, by staged value.
        files: the files of each unknown value: how many, and the first.
    """

    unknown: dict[int, int] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)
    files: dict[int, tuple[int, str]] = field(default_factory=dict)

    def add(self, labels: UnknownLabels, where: str) -> None:
        """Count a label."""
        for value, number in labels.unknown:
            self.unknown[value] = self.unknown.get(value, 0) + number
            num_files, first = self.files.get(value, (0, where))
            self.files[value] = (num_files + 1, first)
        for value, number in labels.known:
            self.known[value] = self.known.get(value, 0) + number

    def listed(self, source_uri: str, name: Callable[[int], str], values: Sequence[int]) -> str:
        """Values with their pixels; files, where there are several, of the first.

        Args:
            source_uri: the dataset; "" where the error is about one file.
            name: how a value is written.
            values: those to list, in this order.
        """
        parts = []
        for position, value in enumerate(values[:MOST_LISTED]):
            num_files, first = self.files[value]
            files = ""
            if source_uri and position == 0:
                first = first.removeprefix(f"{source_uri}/")
                files = f" in {first}" if num_files == 1 else f" in {num_files} files, the first {first}"
            parts.append(f"{name(value)} ({self.unknown[value]} px{files})")
        more = f" and {len(values) - MOST_LISTED} more" if len(values) > MOST_LISTED else ""
        return ", ".join(parts) + more
