"""Training tiles as transforms take them: decoded once in a training where there is room to keep them, else each epoch.

Decoding is most of the work on a compressed tile, and training reads each tile a dozen times. Uncompressed ones are
kept too: their labels are PNGs, and reading an image from its place in a shard takes longer than copying it. Kept
values are read through the page cache, so what is kept should fit into memory: reading more of it from a disk may take
longer than decoding.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.tile import Tile
from landseg.dataset.cache import default_limit
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.raw.processes import memory_bytes
from landseg.training.distributed.team import Team
from landseg.training.input.kept_values import KeptValues
from landseg.training.input.pipeline import SEG_PAD_VALUE
from landseg.training.input.transforms import Image, Label

_FILE = "decoded-tiles"

_log = logging.getLogger(__name__)


class DecodedTiles:
    """Images and labels of training tiles, before any transform.

    Args:
        dataset: the staged dataset.
        indexes: the splits to train on with their tiles, which are numbered over all of them.
    """

    def __init__(self, dataset: StagedDataset, indexes: Sequence[tuple[Split, TileIndex]]) -> None:
        self.dataset, self._indexes = dataset, indexes
        self._ignored = dataset.schema.ignore_index
        self._kept: KeptValues | None = None

    def read(self, number: int, split: Split, tile: Tile) -> tuple[Image, Label]:
        """A tile's image (H, W, B) and label (H, W), both uint8; 255 where the label is ignored.

        Args:
            number: the tile's number over all splits.
            split: its split.
            tile: its row.

        Raises:
            DataError: the tile cannot be read.
        """
        shape, bands = (tile.height, tile.width), len(self.dataset.schema.bands)
        kept = None if self._kept is None else self._kept.read(number)
        if kept is None:
            image, label = self.dataset.read_image(split, tile), self._decoded_label(split, tile)
            # What lies next to it must not be overwritten if a shard holds another image than its index says.
            if self._kept is not None and image.shape == (*shape, bands) and label.shape == shape:
                self._kept.write(number, [label, image])
            return image, label
        num_px = tile.height * tile.width
        return kept[num_px:].reshape(*shape, bands), kept[:num_px].reshape(shape)

    def keep(self, folder: Path, limit_bytes: int | None, team: Team) -> None:
        """Keep what is decoded from now on, for all processes of a team; a process that is killed leaves no file.

        Args:
            folder: local folder for the file.
            limit_bytes: what it may take; None: half of the memory that the team may use, and with the shards in the
                dataset's cache what these alone may take. In a folder that is in memory itself, nothing.
            team: the processes that train together, each of which has to call this.
        """
        limit = limit_bytes
        if limit is None:
            limit = int(team.from_leader(self._default_limit() if team.leads else 0))
        if not limit:
            return
        num_px = np.concatenate([np.prod(index.table.sizes, axis=0, dtype=np.int64) for _, index in self._indexes])
        path = folder / _FILE
        try:
            self._kept = KeptValues(path, num_px * (1 + len(self.dataset.schema.bands)), limit)
        except OSError as err:
            _log.warning("%s: training tiles are decoded in each epoch: %s", folder, (err.strerror or str(err)).lower())
        team.barrier()  # all have opened it
        if team.leads:
            path.unlink(missing_ok=True)
        if team.leads and self._kept is not None:
            _log.info(
                "%d of %d training tiles are decoded once and kept on local disk, in up to %s MB",
                self._kept.num_tiles,
                len(num_px),
                f"{self._kept.size_bytes / 1e6:,.1f}",
            )

    def close(self) -> None:
        """Free what is kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _decoded_label(self, split: Split, tile: Tile) -> Label:
        label: Label = self.dataset.read_label(split, tile)
        if self._ignored != SEG_PAD_VALUE:  # the value that the loss ignores
            label = np.where(label == self._ignored, np.uint8(SEG_PAD_VALUE), label)
        return label

    def _default_limit(self) -> int:
        cache = self.dataset.cache
        room = default_limit(cache) - self.dataset.held_bytes
        is_in_memory = storage.is_in_memory(cache)
        if room <= 0 or is_in_memory:
            why = "it is in memory itself" if is_in_memory else "no room is left next to the shards"
            _log.info("training tiles are decoded in each epoch rather than kept in %s: %s", cache.parent, why)
            return 0
        return min(memory_bytes() // 2, room)
