"""What staging has to say about a dataset: errors, warnings and notes, counted against the limit of bad tiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from landseg.contracts.errors import DataError

_SHOWN = 5

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about a dataset, one of its tiles, or one of its files.

    Attributes:
        where: the file, URI or tile; "" where it concerns the dataset as a whole.
        problem: what was expected and what was found; a whole sentence where `where` is empty.
        action: what to do about it.
        severity: `error` keeps the dataset from being published, unless bad tiles may be left out; `warning` is
            suspicious; `note` is a decision that was made for the user.
        split: the split, "" where it concerns none.
        tile_id: the tile, "" where it concerns none.
    """

    where: str
    problem: str
    action: str = ""
    severity: Severity = "error"
    split: str = ""
    tile_id: str = ""

    @classmethod
    def of(cls, error: DataError, split: str = "", tile_id: str = "") -> Finding:
        """The finding that an error reports."""
        return cls(error.where, error.problem, error.hint, "error", split, tile_id)

    @classmethod
    def note(cls, sentence: str) -> Finding:
        """A note about the dataset as a whole."""
        return cls("", sentence, severity="note")

    @property
    def error(self) -> DataError:
        """The finding as an error to raise."""
        return DataError(self.where, self.problem, self.action)


class Findings:
    """The findings of a dataset, in the order in which they were made.

    Args:
        on_bad_tile: whether a bad tile keeps the dataset from being published or is left out.
        max_bad: with `skip`, more bad tiles than this keep it from being published all the same.

    Attributes:
        are_fatal: whether the dataset must not be published.
    """

    def __init__(self, on_bad_tile: Literal["fail", "skip"] = "fail", max_bad: int = 0) -> None:
        self._max_bad = max_bad if on_bad_tile == "skip" else -1
        self._findings: list[Finding] = []
        self._bad_tiles: set[tuple[str, str]] = set()
        self.are_fatal = False

    @property
    def errors(self) -> list[Finding]:
        """The errors among them."""
        return [finding for finding in self._findings if finding.severity == "error"]

    @property
    def notes(self) -> list[Finding]:
        """The notes among them."""
        return [finding for finding in self._findings if finding.severity == "note"]

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings. An error is fatal if it concerns no single tile, or one bad tile too many."""
        for finding in findings:
            self._findings.append(finding)
            if finding.severity == "error":
                self._bad_tiles.add((finding.split, finding.tile_id))
                self.are_fatal = self.are_fatal or not finding.tile_id or len(self._bad_tiles) > self._max_bad

    def summary(self, source_uri: str) -> DataError:
        """All errors as one error line: the first few, and how many more there are."""
        errors = [finding.error for finding in self.errors]
        if len(errors) == 1:
            return errors[0]
        shown = "; ".join(str(error).removeprefix(f"{source_uri}/") for error in errors[:_SHOWN])
        more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        limit = f" (--max-bad is {self._max_bad})" if self._max_bad >= 0 else ""
        return DataError(source_uri, f"{len(errors)} problems{limit}: {shown}{more}")
