"""What staging has to say about a dataset: errors, warnings and notes, counted against the limit of bad tiles."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from typing import Literal

from landseg.contracts.errors import DataError
from landseg.raw.labels.rule import UnknownLabels
from landseg.raw.labels.unknown.errors import UnknownLabelsError

_SHOWN = 5
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

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
        labels: the label values that mean nothing, where they are the error.
    """

    where: str
    problem: str
    action: str = ""
    severity: Severity = "error"
    split: str = ""
    tile_id: str = ""
    labels: UnknownLabels | None = None

    @classmethod
    def of(cls, error: DataError, split: str = "", tile_id: str = "") -> Finding:
        """The finding that an error reports."""
        labels = error.labels if isinstance(error, UnknownLabelsError) else None
        return cls(error.where, error.problem, error.hint, "error", split, tile_id, labels)

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

    def copy(self) -> Findings:
        """The same findings, to which others can be added."""
        copy = Findings()
        copy._max_bad, copy._findings, copy._bad_tiles = self._max_bad, list(self._findings), set(self._bad_tiles)
        copy.are_fatal = self.are_fatal
        return copy

    @property
    def errors(self) -> list[Finding]:
        """The errors among them."""
        return [finding for finding in self._findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The warnings among them."""
        return [finding for finding in self._findings if finding.severity == "warning"]

    @property
    def notes(self) -> list[Finding]:
        """The notes among them."""
        return [finding for finding in self._findings if finding.severity == "note"]

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings. An error is fatal if it concerns no single tile, or one bad tile too many."""
        added = list(findings)
        self.are_fatal = self.would_be_fatal(added)
        self._findings += added
        self._bad_tiles |= _bad_tiles(added)

    def would_be_fatal(self, findings: Iterable[Finding]) -> bool:
        """Whether the dataset must not be published, with these findings added."""
        bad = _bad_tiles(findings)
        return any(not tile_id for _, tile_id in bad) or self.are_too_many(bad)

    def are_too_many(self, bad_tiles: Set[tuple[str, str]]) -> bool:
        """Whether the dataset must not be published, with these tiles, by split and id, among the bad ones."""
        most = max(0, self._max_bad)
        if self.are_fatal or len(self._bad_tiles) + len(bad_tiles) <= most:  # asked of each bad tile: not to join sets
            return self.are_fatal
        return len(self._bad_tiles | bad_tiles) > most

    @property
    def unknown_labels(self) -> list[tuple[UnknownLabels, str]]:
        """The label values that mean nothing, and their file, label by label."""
        return [(finding.labels, finding.where) for finding in self._findings if finding.labels is not None]

    def condense_unknown_labels(self, errors: Iterable[DataError]) -> None:
        """Put errors about the dataset's labels as a whole in the place of those about single ones."""
        self._findings = [finding for finding in self._findings if finding.labels is None]
        self.add(Finding.of(error) for error in errors)

    def summary(self, source_uri: str) -> DataError:
        """All errors as one error line: those that are alike as one, the first few, and how many more there are."""
        errors = self.errors
        groups = alike(errors)
        if len(errors) == 1:
            return errors[0].error
        shown = "; ".join(str(group.error).removeprefix(f"{source_uri}/") for group in groups[:_SHOWN])
        more = f"; and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
        limit = f" (--max-bad is {self._max_bad})" if self._max_bad >= 0 else ""
        return DataError(source_uri, f"{len(errors)} problems{limit}: {shown}{more}")


def _bad_tiles(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    """Split and id of the tiles that errors are about; no id in an error about no single tile."""
    return {(finding.split, finding.tile_id) for finding in findings if finding.severity == "error"}


def alike(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that differ only in file, tile and numbers as one: the first, with how many others, and some names."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.severity, *(_pattern(text, finding) for text in (finding.problem, finding.action)))
        groups.setdefault(key if finding.where else (*key, finding.problem), []).append(finding)
    return [_group(members) for members in groups.values()]


def _pattern(text: str, finding: Finding) -> str:
    if finding.tile_id:  # where it stands alone: tile 1 is not the 1 of 512
        text = re.sub(rf"(?<![^\W_])(?<!\d\.){re.escape(finding.tile_id)}(?![^\W_]|\.\d)", "*", text)
    return _NUMBER.sub("*", text)


def _common_parts(folders: set[str]) -> list[str]:
    levels = zip(*(folder.split("/") for folder in folders), strict=False)
    return [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)]


def _group(members: list[Finding]) -> Finding:
    first = members[0]
    files = list(dict.fromkeys(member.where for member in members))
    if len(files) == 1:
        return first
    folders = {file.rpartition("/")[0] for file in files}
    shared = folders.pop() if len(folders) == 1 else "/".join(_common_parts(folders))
    names = [file.removeprefix(f"{shared}/") if shared else file for file in files[1:_SHOWN]]
    more = ", ..." if len(files) > _SHOWN else ""
    others = f"{len(files) - 1} other{'s' if len(files) > 2 else ''}"
    return replace(first, where=f"{first.where} and {others} ({', '.join(names)}{more})")
