"""Export as on a GPU: quantised on the device, in batches that fit, in bf16 where fp16 overflows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from random_models import write_model
from test_export import CLASSES, stage, write_raw

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.probabilities import ProbsManifest
from landseg.prediction import device as device_choice
from landseg.prediction import export as exporting
from landseg.prediction import loading
from landseg.prediction.outlets import DeviceOutlet
from landseg.prediction.predictor import Predictor
from landseg.probabilities.shard_index import ShardIndex

SIZES = {"train": [(64, 64)], "val": [(64, 64), (40, 72), (64, 64), (64, 64), (64, 64)]}


class Place:
    def __init__(self, root: Path) -> None:
        self.store = root / "store"
        self.dataset = stage(write_raw(root / "raw", CLASSES, sizes=SIZES), self.store)
        self.model = write_model(self.store, self.dataset)

    def export(self, run_id: str, *more: str) -> dict[str, bytes]:
        inputs = ["--dataset", self.dataset, "--model", self.model, "--storage-uri", str(self.store)]
        where = ["--run-id", run_id, "--splits", "val", "--num-workers", "2"]
        assert main(["export-probs", *inputs, *where, *more]) == 0
        folder = self.store / "runs" / run_id
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "costs"]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    def in_bf16(self, run_id: str) -> list[str]:
        (uri,) = (self.store / "runs" / run_id).rglob("manifest.json")
        found = storage.read_document(ProbsManifest, str(uri)).document
        return [tile for shard in ShardIndex(found, "val", storage.parent(str(uri))) for tile in shard.in_bf16]


@pytest.fixture(autouse=True)
def large_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of few tiles have no batches of four."""
    monkeypatch.setattr("landseg.probabilities.layout._MIN_SHARDS", 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("export"))


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(exporting, "_outlet", lambda *args: DeviceOutlet(*args[:3]))


@pytest.mark.parametrize("options", [[], ["--views", "each", "--dtype", "uint16"]])
def test_the_same_bytes_as_the_codecs(options: list[str], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "views" if options else "mean"
    expected = place.export(f"{name}-cpu", "--precision", "fp32", *options)
    monkeypatch.setattr(exporting, "_outlet", lambda *args: DeviceOutlet(*args[:3]))
    assert place.export(f"{name}-device", "--precision", "fp32", *options) == expected


@pytest.mark.gpu
def test_a_gpu_writes_what_its_probabilities_are(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path over page-locked memory and a stream of its own, against the codec on the same device's values."""
    found = place.export("gpu-device", "--precision", "fp32")
    monkeypatch.setattr(exporting, "_outlet", lambda *args: exporting.HostOutlet(*args))
    assert place.export("gpu-host", "--precision", "fp32") == found


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine whose memory suffices for two tiles; the list gets the sizes of the batches that were tried."""
    tried: list[int] = []
    predict = Predictor._predict

    def limited(self: Predictor, batch: Sequence[Any], *rest: Any) -> Any:
        tried.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return predict(self, batch, *rest)

    monkeypatch.setattr(Predictor, "_predict", limited)
    return tried


@pytest.mark.parametrize("device", [False, True])
def test_batches_are_halved_until_they_fit(
    device: bool, place: Place, narrow: list[int], request: pytest.FixtureRequest
) -> None:
    if device:
        request.getfixturevalue("on_device")
    place.export(f"narrow-{device}", "--precision", "fp32")
    assert narrow[:2] == [4, 2]
    assert max(narrow[1:]) == 2
    assert sum(narrow[1:]) == len(SIZES["val"])


def test_a_batch_size_that_was_given_is_not_halved(
    place: Place, narrow: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", place.dataset, "--model", place.model, "--storage-uri", str(place.store)]
    more = ["--run-id", "fixed", "--splits", "val", "--batch-size", "4"]
    assert main(["export-probs", *arguments, *more, "--precision", "fp32"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "landseg export-probs: error: --batch-size: out of GPU memory: 2.00 GiB more were needed "
        "(use a smaller batch, or smaller tiles)"
    )


@pytest.mark.parametrize("device", [False, True])
def test_tiles_that_overflow_in_fp16_are_predicted_in_bf16(
    device: bool, place: Place, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if device:
        request.getfixturevalue("on_device")
    predict = Predictor._predict

    def overflowing(self: Predictor, batch: Sequence[Any], size: Any, keep: bool) -> Any:
        mean, views = predict(self, batch, size, keep)
        if self._precision == "fp16" and size == (40, 72):
            mean = torch.full_like(mean, torch.nan)
        return mean, views

    monkeypatch.setattr(Predictor, "_predict", overflowing)
    run = f"overflow-{device}"
    place.export(run, "--precision", "fp16")
    assert place.in_bf16(run) == ["val1"]


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("suffices", [True, False])
def test_memory_that_runs_out_for_a_tile_in_bf16_repeats_no_other(
    suffices: bool, device: bool, place: Place, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Tiles of the batch may be encoded already when it does: it is not predicted again in halves."""
    if device:
        request.getfixturevalue("on_device")
    predict, tried = Predictor._predict, []

    def overflowing(self: Predictor, batch: Sequence[Any], size: Any, keep: bool) -> Any:
        tried.append((self._precision, len(batch)))
        if self._precision == "bf16" and not (suffices and tried.count(("bf16", 1)) > 1):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        mean, views = predict(self, batch, size, keep)
        if self._precision == "fp16" and len(batch) == 4:
            mean = mean.clone()
            mean[2] = torch.nan
        return mean, views

    monkeypatch.setattr(Predictor, "_predict", overflowing)
    arguments = ["--dataset", place.dataset, "--model", place.model, "--storage-uri", str(place.store)]
    more = ["--run-id", f"narrow-bf16-{suffices}-{device}", "--splits", "val", "--precision", "fp16"]
    assert main(["export-probs", *arguments, *more]) == (0 if suffices else 2)
    assert [number for precision, number in tried if precision == "fp16"] in ([4], [4, 1])
    assert tried.count(("bf16", 1)) == 2


def test_bf16_takes_the_place_of_the_fused_head_too() -> None:
    """The fused head's weights are in fp16: for a tile in bf16 it stands aside."""
    seen: list[tuple[str, bool]] = []

    class Head(torch.nn.Module):
        pass

    class Fake(Predictor):
        def __init__(self) -> None:
            self._model = torch.nn.Module()
            self._model.decode_head = Head()
            self._model.decode_head._forward_feature = "fused"
            self._precision = "fp16"

        def on_device(self, batch: Any, size: Any, keep: bool = False) -> Any:
            seen.append((self._precision, "_forward_feature" in vars(self._model.decode_head)))
            return torch.zeros(1), None

    fake = Fake()
    fake.in_bf16([np.zeros((3, 1, 1), np.float32)], (1, 1))
    fake.on_device([], (1, 1))
    assert seen == [("bf16", False), ("fp16", True)]


@pytest.mark.parametrize(
    ("trained_in", "capability", "expected"),
    [("fp16", (9, 0), "fp16"), ("fp32", (9, 0), "bf16"), (None, (9, 0), "bf16"), (None, (7, 5), "fp16")],
)
def test_the_precision_of_a_gpu_follows_the_training(
    trained_in: str | None, capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_choice, "default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device_choice.resolve_precision("auto", trained_in) == expected
    assert device_choice.resolve_precision("fp32", trained_in) == "fp32"


def test_products_of_float32_are_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "Predictor", lambda *args, **options: options["precision"])
    kinds = torch.backends.cudnn, torch.backends.cuda.matmul
    before, threads = [kind.allow_tf32 for kind in kinds], torch.get_num_threads()
    try:
        for kind in kinds:
            kind.allow_tf32 = True
        model, config = torch.nn.Identity(), SimpleNamespace()
        assert loading.final_predictor(model, config, [0.0], [1.0], tta="none", precision="fp32") == "fp32"
        assert not any(kind.allow_tf32 for kind in kinds)
    finally:
        torch.set_num_threads(threads)
        for kind, value in zip(kinds, before, strict=True):
            kind.allow_tf32 = value
