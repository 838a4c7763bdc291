"""While the model predicts, later tiles are decoded, earlier ones encoded and a shard before them uploaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landseg.contracts.probabilities import ProbsSpec
from landseg.contracts.tile import Tile
from landseg.prediction.export import export
from landseg.probabilities.writer import ProbsWriter, ShardBuilder

NUM_TILES = 8
DIGEST = "0" * 64
WAIT_S = 60


class Meetings:
    """Pairs of tasks that each wait for the other to begin: they pass only if they run at the same time."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, int], threading.Event] = {}
        self._lock = threading.Lock()

    def _event(self, what: str, number: int) -> threading.Event:
        with self._lock:
            return self._begun.setdefault((what, number), threading.Event())

    def begin(self, what: str, number: int, *others: tuple[str, int]) -> None:
        self._event(what, number).set()
        for other in others:
            assert self._event(*other).wait(WAIT_S), f"{what} {number} ran without {other[0]} {other[1]}"


class Work:
    """Stands for dataset, model and writer; every tile is a shard of its own."""

    def __init__(self, folder: Path) -> None:
        self.meetings = Meetings()
        spec = ProbsSpec(
            model="swin",
            model_sha256=DIGEST,
            checkpoint_sha256=DIGEST,
            dataset_id="0" * 16,
            dataset_sha256=DIGEST,
            classes=("a", "b"),
            dtype="companded",
            tta="none",
            precision="fp32",
        )
        self._tiles = [
            Tile(
                id=f"{i}",
                shard=0,
                image=(0, 1),
                label=None,
                height=8,
                width=8,
                image_sha256=DIGEST,
                label_sha256=None,
            )
            for i in range(NUM_TILES)
        ]
        self.writer = ProbsWriter(str(folder), spec, {"val": self._tiles})
        self.plan = self.writer.plan
        self.spec = spec
        self.device = torch.device("cpu")

    def index(self, split: str) -> Work:
        return self

    def find(self, tile_id: str) -> Tile:
        return self._tiles[int(tile_id)]

    def read_image(self, split: str, tile: Tile) -> Any:
        number = int(tile.id)
        if number >= 3:  # the first are decoded before anything is predicted
            self.meetings.begin("decode", number, ("predict", number - 2))
        return number

    def prepare(self, image: Any) -> Any:
        return image

    def __call__(self, batch: list[int], size: tuple[int, int]) -> Any:
        number = batch[0]
        others = [("decode", number + 2), ("encode", number - 1), ("upload", number - 2)]
        first = {"decode": 3, "encode": 0, "upload": 0}
        self.meetings.begin("predict", number, *(o for o in others if first[o[0]] <= o[1] < NUM_TILES))
        return np.full((1, 2, *size), 0.5, np.float32)

    def shard(self, plan: Any) -> Any:
        return _Builder(self.writer.shard(plan), self.meetings.begin, int(plan.tiles[0].id))


class _Builder:
    def __init__(self, builder: ShardBuilder, begin: Callable[..., None], number: int) -> None:
        self._builder, self._begin, self._number = builder, begin, number

    def _meet(self, what: str, later: int) -> None:
        partner = self._number + later
        self._begin(what, self._number, *([("predict", partner)] if partner < NUM_TILES else []))

    def add(self, *arguments: Any) -> None:
        self._meet("encode", 1)
        self._builder.add(*arguments)

    def close(self) -> None:
        self._meet("upload", 2)
        self._builder.close()


def test_everything_happens_at_once(tmp_path: Path) -> None:
    work: Any = Work(tmp_path)
    done: list[int] = []
    export(work, work, work, work.plan, batch_size=1, num_threads=2, advance=done.append)
    assert sum(done) == NUM_TILES
    assert work.writer.publish() is not None
