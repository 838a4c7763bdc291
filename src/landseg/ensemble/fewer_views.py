"""What flipped and turned views contribute: the ensemble from fewer views, where each view is stored individually."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from landseg.contracts.dataset import Split
from landseg.contracts.probabilities import VIEW_WEIGHTS, VIEWS, Tta
from landseg.ensemble.averaging import Average, Labels, Subset
from landseg.ensemble.members import Member
from landseg.probabilities.codec import DTYPES, Stored
from landseg.probabilities.reader import ShardReader


def fewer_views(members: Sequence[Member]) -> tuple[Tta, ...]:
    """Each smaller `--tta` that can be scored: those with fewer views than the members keep, if all keep the same."""
    kept = {member.reader.spec.views for member in members}
    if len(kept) > 1:
        return ()
    (views,) = kept
    return tuple(tta for tta, names in VIEWS.items() if len(names) < len(views))


@dataclass(frozen=True)
class FewerViewsAverage:
    """The models and the ensemble with the views of a smaller `--tta`, weighed as that one weighs them (docs/adr).

    A temperature is applied to each view, although it was fitted to their mean: the difference is small.
    """

    tta: Tta
    members: tuple[Member, ...]

    @property
    def num_views(self) -> int:
        """How many views each model has."""
        return len(VIEWS[self.tta])

    @functools.cached_property
    def _average(self) -> Average:
        each = [member for member in self.members for _ in range(self.num_views)]
        return Average(
            tuple(DTYPES[member.reader.spec.dtype] for member in each),
            tuple(member.weight * weight for member in self.members for weight in VIEW_WEIGHTS[self.tta]),
            tuple(member.temperature for member in each),
        )

    def prepare(self, stored: Sequence[Sequence[Stored]]) -> list[Stored]:
        """Apply the temperatures.

        Args:
            stored: by model, (C, H, W) of each view in the order of :data:`VIEWS`, at least the views of this `tta`.

        Returns:
            (C, H, W) of each view of this `tta`, model by model.
        """
        return self._average.prepare([view for views in stored for view in views[: self.num_views]])

    def labels(self, prepared: Sequence[Stored]) -> list[Labels]:
        """Label maps of each model, then of the ensemble.

        Args:
            prepared: as :meth:`prepare` returns it, or a blend of such tiles, in float32.
        """
        positions = range(len(prepared))
        alone: list[Subset] = [
            tuple(positions[start : start + self.num_views]) for start in positions[:: self.num_views]
        ]
        return self._average.labels(prepared, [*alone, tuple(positions)])


@contextlib.contextmanager
def open_views(
    members: Sequence[Member], wanted: Sequence[Tta], split: Split, index: int
) -> Iterator[list[list[ShardReader]]]:
    """By member, the same shard of every view that any of `wanted` has; see :meth:`ProbsReader.shard`."""
    num_views = max((len(VIEWS[tta]) for tta in wanted), default=0)
    with contextlib.ExitStack() as stack:
        yield [
            [stack.enter_context(member.reader.shard(split, index, view)) for view in range(num_views)]
            for member in members
        ]
