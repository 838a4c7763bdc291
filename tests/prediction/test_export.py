"""export-probs: the same bytes whoever writes them and however often they are killed; wrong input is refused."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from peak_memory import peak_of_verb
from PIL import Image
from random_models import MEAN, STD, write_model

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.dataset import ClassSchema
from landseg.contracts.model import ModelManifest
from landseg.contracts.references import Reference
from landseg.dataset.reader import StagedDataset
from landseg.models.build import build_model, load_model
from landseg.models.config_text import parse_config
from landseg.models.configs import load_config
from landseg.prediction.predictor import Predictor
from landseg.probabilities.codec import DTYPES, dequantize
from landseg.probabilities.reader import ProbsReader

CLASSES = ["field", "road", "water"]
SIZES = [(64, 64), (64, 64), (40, 72), (64, 64), (136, 48), (64, 64)]


def write_raw(
    root: Path, classes: list[str], bands: int = 3, sizes: dict[str, list[tuple[int, int]]] | None = None
) -> Path:
    rng = np.random.default_rng(0)
    for split, split_sizes in (sizes or {"train": SIZES[:1], "val": SIZES, "test": SIZES[:2]}).items():
        for i, (height, width) in enumerate(split_sizes):
            image, label = (root / split / kind / f"{split}{i}" for kind in ("images", "labels"))
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(f"{image}.tif", rng.integers(0, 256, (height, width, bands), np.uint8), metadata=None)
            if split != "test":
                Image.fromarray(rng.integers(0, len(classes), (height, width)).astype(np.uint8)).save(f"{label}.png")
    (root / "dataset.yaml").write_text(yaml.safe_dump({"version": 1, "name": "noise", "classes": classes}))
    return root


def stage(root: Path, store: Path) -> str:
    out = root / "staged"
    assert main(["stage-data", "--source", str(root), "--storage-uri", str(store), "--output-dir", str(out)]) == 0
    return str(out / "dataset.json")


class Place:
    """A storage folder with a staged dataset and a model in it."""

    def __init__(self, root: Path) -> None:
        self.store = root / "store"
        self.dataset = stage(write_raw(root / "raw", CLASSES), self.store)
        self.model = write_model(self.store, self.dataset)

    def arguments(self, run_id: str, *more: str) -> list[str]:
        inputs = ["--dataset", self.dataset, "--model", self.model, "--storage-uri", str(self.store)]
        return ["export-probs", *inputs, "--run-id", run_id, "--precision", "fp32", "--num-workers", "2", *more]

    def files(self, run_id: str) -> dict[str, bytes]:
        folder = self.store / "runs" / run_id
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.parent.name != "costs"
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("export"))
    assert main(made.arguments("one", "--output-dir", str(made.store / "out"))) == 0
    return made


def test_probabilities_are_the_predictors(place: Place) -> None:
    assert main(place.arguments("float", "--dtype", "float32", "--output-dir", str(place.store / "float"))) == 0
    reader = ProbsReader.open(str(place.store / "float" / "probs.json"), place.store)
    staged = StagedDataset.open(place.dataset, place.store)
    manifest = storage.read_document(ModelManifest, place.model).document
    config = parse_config(manifest.config, "")
    model = load_model(config, staged.schema, Path(storage.parent(place.model)) / "model.pth")
    predict = Predictor(model, config, MEAN, STD, tta="hv", precision="fp32", device=torch.device("cpu"))
    for tile in staged.tiles("val"):
        image = staged.read_image("val", tile)
        expected = predict([predict.prepare(image)], image.shape[:2])[0]
        found = dequantize(reader.read_tile("val", tile.id), DTYPES["float32"])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_views_are_stored_beside_the_same_mean(place: Place) -> None:
    assert main(place.arguments("views", "--views", "each", "--output-dir", str(place.store / "views"))) == 0
    means, stored = (
        {name.partition("probs.zarr")[2]: data for name, data in place.files(run_id).items() if "/probs/c/" in name}
        for run_id in ("one", "views")
    )
    assert means == stored
    alone = {}
    for tta in ("none", "h"):
        flags = ["--tta", tta, "--output-dir", str(place.store / tta)]
        assert main(place.arguments(tta, *flags)) == 0
        alone[tta] = ProbsReader.open(str(place.store / tta / "probs.json"), place.store)
    reader, dtype = ProbsReader.open(str(place.store / "views" / "probs.json"), place.store), DTYPES["companded"]
    assert reader.spec.views == ("original", "horizontal", "vertical")
    for index, shard in enumerate(reader.index("val")):
        with contextlib.ExitStack() as stack:
            views = [stack.enter_context(reader.shard("val", index, view)) for view in range(3)]
            for position, tile in enumerate(shard.tiles):
                original, horizontal, vertical = (dequantize(view.read(position), dtype) for view in views)
                found = {"none": original, "h": (original + horizontal) / 2}
                for tta, expected in found.items():
                    values = dequantize(alone[tta].read_tile("val", tile.id), dtype)
                    np.testing.assert_allclose(values, expected, atol=33 / 4096)
                mean = dequantize(reader.read_tile("val", tile.id), dtype)
                np.testing.assert_allclose(mean, (2 * original + horizontal + vertical) / 4, atol=33 / 4096)


def test_the_reference_says_what_is_there(place: Place) -> None:
    path = place.store / "out" / "probs.json"
    reference = Reference.parse(path.read_bytes(), path)
    facts = reference.facts
    assert (facts["model"], facts["splits"], facts["tiles"], facts["tta"]) == ("swin", "test,val", 8, "hv")
    assert ProbsReader.open(str(path), path.parent).spec.classes == tuple(CLASSES)


def test_shares_write_the_same_bytes_as_one(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for share in ("2/3", "3/3", "1/3"):
        assert main(place.arguments("three", "--worker", share)) == 0
    assert "shards of other shares are still missing" in capsys.readouterr().err
    assert place.files("three") == place.files("one")


def test_a_rerun_does_no_work_and_writes_its_reference(place: Place, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place.store / "runs" / "one").rglob("*")}
    assert main(place.arguments("one", "--output-dir", str(tmp_path))) == 0
    assert {path: path.stat().st_mtime_ns for path in (place.store / "runs" / "one").rglob("*")} == before
    assert (tmp_path / "probs.json").read_bytes() == (place.store / "out" / "probs.json").read_bytes()


def test_one_that_goes_on_with_no_earlier_export_says_so(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    exports = place.store / "runs" / "others" / "export-probs" / "swin"
    assert main(place.arguments("others")) == 0
    assert "already" not in capsys.readouterr().err
    (first,) = exports.iterdir()
    first.rename(exports / ("0" * 12))  # where other code would have worked
    assert main(place.arguments("others", "--worker", "1/3")) == 0
    said = capsys.readouterr().err
    assert f"the run has an export of swin already ({exports / ('0' * 12)}, finished), which is not resumed" in said
    assert "resumed: another version of landseg's code. To go on with it" in said
    assert main(place.arguments("others", "--worker", "2/3")) == 0
    assert "already" not in capsys.readouterr().err
    assert main(place.arguments("others", "--dtype", "uint8")) == 0
    assert "unfinished), which is not resumed: dtype companded there, uint8 here. To" in capsys.readouterr().err


def test_unfinished_shards_alone_are_written_again(place: Place) -> None:
    assert main(place.arguments("half")) == 0
    folder = next((place.store / "runs" / "half" / "export-probs" / "swin").iterdir())
    records = sorted((folder / "records").iterdir())
    kept = (folder / "probs.zarr").rglob("probs/c/*/0/0/0")
    (folder / "manifest.json").unlink()
    records[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert main(place.arguments("half")) == 0
    assert sum(path.stat().st_mtime_ns != before for path, before in times.items()) == 1
    assert place.files("half") == place.files("one")


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes(place: Place) -> None:
    command = [sys.executable, "-m", "landseg", *place.arguments("killed")]
    exported = place.store / "runs" / "killed" / "export-probs" / "swin"
    statuses = []
    for pause in sorted(np.random.default_rng(1).uniform(0, 0.05, 3)):
        before = len(list(exported.glob("*/records/*")))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(exported.glob("*/records/*"))) == before:
            time.sleep(0.001)
        time.sleep(pause)
        process.kill()
        statuses.append(process.wait())
    assert statuses[0] == -signal.SIGKILL  # before it had finished
    assert main(place.arguments("killed")) == 0
    assert place.files("killed") == place.files("one")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_number_of_tiles(place: Place, tmp_path: Path) -> None:
    peaks = []
    for count in (50, 500):
        raw = write_raw(tmp_path / f"{count}", CLASSES, sizes={"train": [(64, 64)], "val": [(64, 64)] * count})
        dataset = stage(raw, place.store)
        arguments = place.arguments(f"peak{count}", "--dataset", dataset, "--splits", "val", "--tta", "h")
        peaks.append(peak_of_verb(arguments))
    assert peaks[1] <= 1.1 * peaks[0], peaks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--splits", "val,dev"], "--splits: expected different ones of train, val, test"),
        (["--splits", "val,val"], "--splits: expected different ones of train, val, test"),
        (["--splits", ","], "--splits: expected different ones of train, val, test"),
        (["--worker", "3/2"], "--worker: expected I/N"),
        (["--tta", "none", "--views", "each"], "--views each: expected --tta h or hv or d4"),
        (["--batch-size", "0"], "--batch-size: expected auto or a number from 1"),
        (["--model", "absent.json"], "absent.json: no such file"),
        (["--model", "DATASET"], "expected a document of kind 'landseg.model'"),
    ],
)
def test_bad_arguments(place: Place, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [place.dataset if value == "DATASET" else value for value in arguments]
    assert main([*place.arguments("bad"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not (place.store / "runs" / "bad").exists()


@pytest.mark.parametrize(
    ("classes", "bands", "message"),
    [
        (["field", "water", "road"], 3, "class 1 is 'road' and 'water'"),
        (["field", "road"], 3, "3 and 2 in number"),
        (
            CLASSES,
            4,
            "the dataset gives 1, 2, 3, 4 of files with 4",
        ),
    ],
)
def test_a_model_of_other_classes_or_bands_is_refused(
    place: Place, classes: list[str], bands: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = stage(write_raw(tmp_path / "raw", classes, bands), tmp_path / "store")
    assert main([*place.arguments("other"), "--dataset", dataset]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = write_model(place.store, place.dataset, seed=1)
    checkpoint = Path(storage.parent(uri)) / "model.pth"
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    assert main([*place.arguments("damaged"), "--model", uri]) == 2
    assert "expected bytes with sha256" in capsys.readouterr().err


def stock_checkpoint(path: Path, meta: dict[str, object]) -> str:
    """What mmsegmentation's own training writes, with a config that landseg has not seen."""
    options = {"model.decode_head.num_classes": 3, "model.auxiliary_head.num_classes": 3}
    config = load_config("resnest_tiny", options)
    schema = ClassSchema(classes=tuple(CLASSES), palette=((0, 0, 0),) * 3, bands=(1, 2, 3))
    known = {"config": config.pretty_text, "CLASSES": tuple(CLASSES), "PALETTE": [[0, 0, 0]] * 3, "epoch": 1}
    state = build_model(config, schema).state_dict()
    state.pop(meta.get("without"), None)
    torch.save({"meta": known | meta, "state_dict": state, "optimizer": {}}, path)
    return str(path)


def test_a_checkpoint_of_mmsegmentation_predicts_too(place: Place, tmp_path: Path) -> None:
    checkpoint = stock_checkpoint(tmp_path / "epoch_1.pth", {})
    for name in ("", "mine"):
        flags = ["--model", checkpoint, "--name", name, "--splits", "val", "--output-dir", str(tmp_path / name)]
        assert main([*place.arguments(f"stock{name}"), *flags]) == 0
    spec = ProbsReader.open(str(tmp_path / "probs.json"), tmp_path).spec
    assert (spec.model, spec.checkpoint_sha256) == ("resnest", storage.file_sha256(Path(checkpoint)))
    assert ProbsReader.open(str(tmp_path / "mine" / "probs.json"), tmp_path).spec.model == "mine"


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (
            {"without": "backbone.stem.0.weight"},
            "epoch_1.pth: expected the weights of the config's model",
        ),
        ({"config": None}, "whose `meta` holds `config` and `CLASSES`, found no config in it"),
        ({"CLASSES": ("field", "water", "road")}, "class 1 is 'water' and 'road'"),
        ({"config": "model = __import__('os')"}, "expected the text of an mmseg config"),
    ],
)
def test_a_checkpoint_that_says_too_little(
    place: Place, meta: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = stock_checkpoint(tmp_path / "epoch_1.pth", meta)
    assert main([*place.arguments("little"), "--model", checkpoint]) == 2
    assert message in capsys.readouterr().err
