"""Scores on val: every tile once, whatever the number of processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from landseg.contracts.dataset import Split, Tile
from landseg.contracts.probabilities import StoredTile
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.models.preprocessing import Planes
from landseg.prediction.predictor import Predictor
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores
from landseg.training.team import Team

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
    total = np.zeros((schema.num_classes, schema.num_classes), np.int64)
    mine = list(_batches(tiles.table))[team.rank :: team.size]
    stopped = False

    def read(batch: Sequence[str]) -> tuple[list[Tile], list[list[Planes]]]:
        rows = [tiles.find(tile_id) for tile_id in batch]
        return rows, [predictor.prepare(dataset.read_image(split, tile)) for tile in rows]

    with ThreadPoolExecutor(1) as pool:  # reads the next batch during the prediction of this one
        coming = pool.submit(read, mine[0]) if mine else None
        for position in range(len(mine)):
            if stopped := stopping():
                break
            assert coming is not None
            rows, inputs = coming.result()
            if position + 1 < len(mine):
                coming = pool.submit(read, mine[position + 1])
            found = predictor.labels(inputs, (rows[0].height, rows[0].width))
            for tile, labels in zip(rows, found, strict=True):
                truth = dataset.read_label(split, tile)
                total += confusion_matrix(truth, labels, schema.num_classes, schema.ignore_index)
    counts = team.sum(torch.from_numpy(np.append(total.ravel(), int(stopped))).to(team.device)).cpu().numpy()
    return None if counts[-1] else scores(counts[:-1].reshape(total.shape), schema.classes)


def _batches(tiles: Iterable[StoredTile]) -> Iterator[tuple[str, ...]]:
    """The ids of consecutive tiles of one size, in batches."""
    for _, group in itertools.groupby(tiles, lambda tile: (tile.height, tile.width)):
        members = [tile.id for tile in group]
        yield from (tuple(members[first : first + _BATCH]) for first in range(0, len(members), _BATCH))
