"""What is wrong with a dataset: collected, counted against the limit, said in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from landseg.contracts.errors import DataError

_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """Something wrong with a tile, or with the dataset as a whole (then `id` is empty).

    Attributes:
        error: where, what, and what to do.
        split: the split, "" where it concerns none.
        id: the tile's id.
    """

    error: DataError
    split: str = ""
    id: str = ""


class Problems:
    """The problems of a dataset.

    Args:
        on_bad_tile: whether a bad tile keeps the dataset from being published or is left out.
        max_bad: with `skip`, more bad tiles than this keep it from being published all the same.
    """

    def __init__(self, on_bad_tile: Literal["fail", "skip"] = "fail", max_bad: int = 0) -> None:
        self._max_bad = max_bad if on_bad_tile == "skip" else -1
        self._problems: list[Problem] = []
        self._tiles: set[tuple[str, str]] = set()
        self.are_fatal = False

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, problems: Iterable[Problem]) -> None:
        """Take note of problems."""
        for problem in problems:
            self._problems.append(problem)
            self._tiles.add((problem.split, problem.id))
            self.are_fatal = self.are_fatal or not problem.id or len(self._tiles) > self._max_bad

    def summary(self, source_uri: str) -> DataError:
        """All problems as one error line: the first few, and how many more there are."""
        errors = [problem.error for problem in self._problems]
        if len(errors) == 1:
            return errors[0]
        shown = "; ".join(str(error).removeprefix(f"{source_uri}/") for error in errors[:_SHOWN])
        more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        limit = f" (--max-bad is {self._max_bad})" if self._max_bad >= 0 else ""
        return DataError(source_uri, f"{len(errors)} problems{limit}: {shown}{more}")
