"""Batches are the same to the bit whether tiles are decoded or were kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raw_tiles import write_raw as write_other_raw
from training_data import stage

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.errors import LandsegError
from landseg.dataset.reader import StagedDataset
from landseg.training.distributed.team import Team
from landseg.training.input import decoded_tiles
from landseg.training.input.batches import Batch, BatchOrder, TileBatches
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import IMAGENET_MEAN, IMAGENET_STD, RECIPE_STEPS
from landseg.training.input.loader import training_batches

PLENTY = 1 << 30


@pytest.fixture(autouse=True)
def seen_by_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged goes to caplog, which a verb that has run before turns off."""
    monkeypatch.setattr(logging.getLogger("landseg"), "propagate", True)


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, str]:
    """The same dataset, compressed and not."""
    return {name: stage(tmp_path_factory.mktemp("data"), compression=name) for name in ("zlib", None)}


def opened(ref: str, folder: Path, **options: Any) -> TileBatches:
    pipeline = build_pipeline(RECIPE_STEPS, IMAGENET_MEAN, IMAGENET_STD)
    return TileBatches(StagedDataset.open(ref, folder / "cache", **options), ("train", "val"), pipeline, seed=1)


def epochs(tiles: TileBatches, num_workers: int, start: int = 0, stop: int = 2) -> list[Batch]:
    order = BatchOrder(len(tiles), 3, 1, 0, seed=1)
    span = start * order.iters_per_epoch, stop * order.iters_per_epoch
    found = training_batches(tiles, order, *span, num_workers=num_workers, pin_memory=False)
    return [
        {**batch, "img": batch["img"].clone(), "gt_semantic_seg": batch["gt_semantic_seg"].clone()} for batch in found
    ]


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["img"], other["img"])
        assert torch.equal(one["gt_semantic_seg"], other["gt_semantic_seg"])
        assert one["img_metas"] == other["img_metas"]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("compression", "limit", "count"),
    [
        ("zlib", PLENTY, 17),
        ("zlib", 20_000, 4),
        (None, PLENTY, 17),
    ],
)
def test_batches_are_the_same(
    compression: str | None,
    limit: int,
    count: int,
    num_workers: int,
    refs: dict[str | None, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ref = refs[compression]
    expected = epochs(opened(ref, tmp_path), num_workers=0)
    tiles = opened(ref, tmp_path)
    with caplog.at_level(logging.INFO):
        tiles.decoding.keep(tmp_path, limit, Team())
    assert f"{count} of 17 training tiles are decoded once and kept on local disk" in caplog.text
    assert not (tmp_path / "decoded-tiles").exists(), "a process that is killed leaves nothing"
    assert_same(epochs(tiles, num_workers), expected)
    assert_same(epochs(tiles, num_workers), expected)  # by other processes


def test_a_tile_that_is_kept_is_not_decoded_again(tmp_path: Path) -> None:
    ref = stage(tmp_path, compression="zlib")
    tiles = opened(ref, tmp_path)
    tiles.decoding.keep(tmp_path, PLENTY, Team())
    expected = epochs(opened(ref, tmp_path), num_workers=0)
    epochs(tiles, num_workers=2, stop=1)
    for shard in (tmp_path / "store").rglob("*.tar"):
        shard.unlink()
    order = BatchOrder(len(tiles), 3, 1, 0, seed=1)
    never = {index for batch in order.batches(0, order.iters_per_epoch) for _, index in batch} ^ set(range(len(tiles)))
    second = [*order.batches(order.iters_per_epoch, 2 * order.iters_per_epoch)]
    whole = [number for number, keys in enumerate(second) if not never & {index for _, index in keys}]
    assert len(whole) >= 3
    for number in whole:
        assert_same([tiles.read(second[number])], [expected[order.iters_per_epoch + number]])
    tiles.decoding.close()
    with pytest.raises(LandsegError, match="the shard cannot be read"):
        tiles.read(second[whole[0]])


def test_scaled_bands_are_kept_as_the_model_sees_them(tmp_path: Path) -> None:
    raw, out = write_other_raw(tmp_path / "raw", train=4, val=1, test=0, dtype="uint16", bands=4), tmp_path / "out"
    assert main(["stage-data", "--source", str(raw), "--storage-uri", str(tmp_path), "--output-dir", str(out)]) == 0
    tiles = opened(str(out / "dataset.json"), tmp_path)
    before = [tiles.decoded(number) for number in range(len(tiles))]
    tiles.decoding.keep(tmp_path, PLENTY, Team())
    for _ in range(2):
        for number, (image, label) in enumerate(before):
            found_image, found_label = tiles.decoded(number)
            np.testing.assert_array_equal(found_image, image)
            np.testing.assert_array_equal(found_label, label)
    for shard in (tmp_path / "datasets").rglob("*.tar"):
        shard.unlink()
    np.testing.assert_array_equal(tiles.decoded(0)[0], before[0][0])


def test_as_much_is_kept_as_memory_and_the_volume_allow(
    refs: dict[str | None, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage, "is_in_memory", lambda folder: False)

    def kept() -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            opened(refs["zlib"], tmp_path).decoding.keep(tmp_path, None, Team())
        (message,) = caplog.messages
        return message

    assert kept().startswith("17 of 17")
    monkeypatch.setattr(decoded_tiles, "memory_bytes", lambda: 8 * 32 * 32 * 4)
    assert kept().startswith("4 of 17")
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", str(4 * 32 * 32 * 4))
    assert kept().startswith("3 of 17")
    monkeypatch.setattr(storage, "is_in_memory", lambda folder: True)
    assert kept() == f"training tiles are decoded in each epoch rather than kept in {tmp_path}: it is in memory itself"
