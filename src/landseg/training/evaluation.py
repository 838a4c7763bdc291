"""Scores on val: every tile once, whatever the number of processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from landseg.contracts.dataset import Split
from landseg.contracts.errors import LandsegError
from landseg.contracts.probabilities import StoredTile
from landseg.contracts.tile import Tile
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.models.failures import came_from_lack_of_memory, free_memory
from landseg.models.preprocessing import Planes
from landseg.prediction.predictor import Predictor
from landseg.scoring.confusion import check_class_ids
from landseg.scoring.scores import scores
from landseg.training.distributed.team import Team

_BATCH = 4


def evaluate(
    predictor: Predictor,
    dataset: StagedDataset,
    split: Split,
    tiles: TileIndex,
    team: Team,
    stopping: Callable[[], bool],
) -> dict[str, float] | None:
    """Score a model on a split.

    The tiles are cut into the same batches whatever the number of processes, and process `rank` takes every `size`-th
    batch: a tile's prediction depends neither on their number nor on which of them makes it.

    Args:
        predictor: the model, without test-time augmentation.
        dataset: the staged dataset.
        split: a labelled split.
        tiles: its tiles; they are read from the index as they are needed.
        team: the processes that share the work.
        stopping: called between batches; True ends the evaluation early.

    Returns:
        `mIoU`, `mAcc`, `aAcc` and `IoU.<class>`; None where a process was asked to stop.
    """
    schema = dataset.manifest.class_schema
    num_classes, ignored = schema.num_classes, schema.ignore_index
    total = torch.zeros(num_classes**2, dtype=torch.int64, device=team.device)
    mine = list(_batches(tiles.table))[team.rank :: team.size]
    fitting = FittingBatches(predictor)
    stopped = False

    def read(batch: Sequence[str]) -> tuple[Tile, list[list[Planes]], torch.Tensor]:
        rows = [tiles.find(tile_id) for tile_id in batch]
        truth = np.stack([dataset.read_label(split, tile) for tile in rows])
        check_class_ids(truth[truth != ignored], num_classes, "truth")
        return rows[0], [predictor.prepare(dataset.read_image(split, tile)) for tile in rows], torch.from_numpy(truth)

    with ThreadPoolExecutor(1) as pool:  # reads the next batch during the prediction of this one
        coming = pool.submit(read, mine[0]) if mine else None
        for position in range(len(mine)):
            if stopped := stopping():
                break
            assert coming is not None
            first, inputs, truth = coming.result()
            if position + 1 < len(mine):
                coming = pool.submit(read, mine[position + 1])
            labels = fitting.labels(inputs, (first.height, first.width))
            total += confusion_counts(truth.to(team.device), labels, num_classes, ignored)
    *counts, stops = team.sum(torch.cat([total, total.new_tensor([int(stopped)])])).tolist()
    return None if stops else scores(np.reshape(counts, (num_classes, num_classes)), schema.classes)


class FittingBatches:
    """Predicts labels in batches, halving those that do not fit into memory: a tile of each size was tried before.

    Args:
        predictor: the model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._too_many_px: int | None = None
        """The smallest batch that did not fit: no batch of several tiles as large is tried again."""

    def labels(self, inputs: Sequence[list[Planes]], size: tuple[int, int]) -> torch.Tensor:
        """As :meth:`landseg.prediction.predictor.Predictor.labels`.

        Raises:
            ConfigError: not even one tile fits, or the model fails.
        """
        px = len(inputs) * size[0] * size[1]
        if len(inputs) == 1 or self._too_many_px is None or px < self._too_many_px:
            try:
                return self._predictor.labels(inputs, size)
            except LandsegError as err:
                if len(inputs) == 1 or not came_from_lack_of_memory(err):
                    raise
                self._too_many_px = px
            free_memory()
        half = -(-len(inputs) // 2)
        return torch.cat([self.labels(inputs[:half], size), self.labels(inputs[half:], size)])


def confusion_counts(truth: torch.Tensor, labels: torch.Tensor, num_classes: int, ignore_index: int) -> torch.Tensor:
    """As :func:`landseg.scoring.confusion.confusion_matrix`, on the device of the labels.

    Args:
        truth: (N, H, W) uint8, class ids or `ignore_index`.
        labels: (N, H, W) uint8, class ids.
        num_classes: C.
        ignore_index: the value in `truth` that is not scored.

    Returns:
        (C * C,) int64: the matrix, row by row.
    """
    pairs = truth.long() * num_classes + labels
    pairs = torch.where(truth == ignore_index, num_classes**2, pairs)
    return torch.bincount(pairs.flatten(), minlength=num_classes**2 + 1)[: num_classes**2]


def _batches(tiles: Iterable[StoredTile]) -> Iterator[tuple[str, ...]]:
    """The ids of consecutive tiles of one size, in batches."""
    for _, group in itertools.groupby(tiles, lambda tile: (tile.height, tile.width)):
        members = [tile.id for tile in group]
        yield from (tuple(members[first : first + _BATCH]) for first in range(0, len(members), _BATCH))
