"""landseg predict: the same maps as the pipeline's stages write, from any input, and again after a kill."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gdal_files import write_gdal
from PIL import Image
from random_models import write_model
from raw_tiles import CLASSES, random_image, random_label, write_config, write_image, write_label, write_raw
from s3_endpoint import S3
from staging_cli import read_paths

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.dataset import Scale
from landseg.contracts.labels import LabelsManifest
from landseg.contracts.model import ModelInput
from landseg.dataset.reader import StagedDataset
from landseg.models.model_input import input_of

torch.set_num_threads(1)
OPTIONS = ["--precision", "fp32", "--num-workers", "1", "--tta", "h"]


class Place:
    """A training set and two models on it; tiles and a scene to label."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "store"
        write_raw(root / "first", train=1, val=0, test=0, size=40)
        self.stage(root / "first")
        dataset = str(root / "staged/dataset.json")
        images = input_of(StagedDataset.open(dataset, root).manifest, (40, 40))
        self.models = [write_model(self.store, dataset, family=family, images=images) for family in ("swin", "resnest")]
        self.images = root / "new"
        for index in range(2):
            write_image(self.images / f"tile {index}.tif", random_image(index, 40))
        write_image(self.images / "sub" / "scene.tif", random_image(9, 90))

    def stage(self, source: Path) -> None:
        arguments = [
            "--source",
            str(source),
            "--storage-uri",
            str(self.store),
            "--output-dir",
            str(self.root / "staged"),
        ]
        assert main(["stage-data", *arguments, "--num-workers", "1"]) == 0

    def predict(self, *arguments: object, out: str = "maps", models: int = 2) -> int:
        flags = [text for model in self.models[:models] for text in ("--model", model)]
        return main(["predict", *map(str, arguments), *flags, "--output-dir", str(self.root / out), *OPTIONS])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("predict"))
    assert made.predict(made.images) == 0
    return made


def maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".tif")}


def test_maps_are_called_as_their_images(place: Place) -> None:
    found = maps(place.root / "maps")
    assert set(found) == {"tile 0.png", "tile 1.png", "scene.tif"}
    assert Image.open(place.root / "maps/tile 0.png").size == (40, 40)
    assert {"report.html", "labels.json", "summary.json"} <= {path.name for path in (place.root / "maps").iterdir()}


def test_the_result_is_the_pipelines_to_the_bit(place: Place, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    scenes = {"max_px": 64, "tile_px": 40, "overlap_px": 5}
    write_config(raw, scenes=scenes)
    (raw / "test/images").mkdir(parents=True)
    for image in place.images.rglob("*.tif"):
        shutil.copy(image, raw / "test/images")
    place.stage(raw)
    common = ["--dataset", str(place.root / "staged/dataset.json"), "--storage-uri", str(tmp_path), "--run-id", "run"]
    for name, model in zip(("swin", "resnest"), place.models, strict=True):
        export = ["--model", model, "--splits", "test", "--output-dir", str(tmp_path / name)]
        assert main(["export-probs", *common, *export, *OPTIONS]) == 0
    probs = [text for name in ("resnest", "swin") for text in ("--probs", str(tmp_path / name / "probs.json"))]
    assert main(["average-probs", *common, *probs, "--png-dir", str(tmp_path / "png"), "--num-workers", "1"]) == 0
    expected = maps(tmp_path / "png/test-scenes") | maps(tmp_path / "png/test")
    found = maps(place.root / "maps")
    assert len(expected) == 2 + 1 + 9  # the scene's tiles too
    assert found == {name: data for name, data in expected.items() if name in found}


def test_a_rerun_finds_everything(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    work = place.root / "maps/.landseg/runs"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    expected = maps(place.root / "maps")
    capsys.readouterr()
    assert place.predict(place.images) == 0
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before
    assert maps(place.root / "maps") == expected
    told = capsys.readouterr().out
    assert f"maps: {place.root / 'maps'}" in told
    assert f"report: {place.root / 'maps/report.html'}" in told


def test_files_that_have_not_changed_are_not_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [place.images / "tile 0.tif", place.images / "sub/scene.tif"]
    assert place.predict(*files, out="single", models=1) == 0
    read = read_paths(monkeypatch)
    assert place.predict(*files, out="single", models=1) == 0
    assert read == []


def test_what_a_killed_prediction_left_is_used(place: Place, tmp_path: Path) -> None:
    killed = place.root / "killed"
    shutil.copytree(place.root / "maps", killed)
    for manifest in (killed / ".landseg/runs").rglob("manifest.json"):
        manifest.unlink()
    parts = {path: path.stat().st_mtime_ns for path in (killed / ".landseg/runs").rglob("records/*")}
    assert parts
    assert place.predict(place.images, out="killed") == 0
    assert {path: path.stat().st_mtime_ns for path in (killed / ".landseg/runs").rglob("records/*")} == parts
    assert maps(killed) == maps(place.root / "maps")


def test_a_file_a_folder_and_an_archive(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = shutil.make_archive(str(tmp_path / "scenes"), "zip", place.images / "sub")
    inputs = (place.images / "tile 0.tif", place.images / "tile 1.tif", archive)
    assert place.predict(*inputs, out="several", models=1) == 0
    assert set(maps(place.root / "several")) == {"tile 0.png", "tile 1.png", "scene.tif"}
    capsys.readouterr()
    assert place.predict(place.images / "tile 0.tif", place.images, out="twice", models=1) == 2
    assert "expected unique names" in (told := capsys.readouterr().err) or "same name" in told


def test_objects_and_prefixes_of_object_storage(place: Place, s3: S3) -> None:
    storage.put_file(f"{s3.uri}/one.tif", place.images / "tile 0.tif")
    storage.put_file(f"{s3.uri}/more/tile 1.tif", place.images / "tile 1.tif")
    work = ["--storage-uri", f"{s3.uri}/work"]
    assert place.predict(f"{s3.uri}/one.tif", f"{s3.uri}/more", *work, out="objects", models=1) == 0
    assert place.predict(place.images, out="local", models=1) == 0
    found, expected = maps(place.root / "objects"), maps(place.root / "local")
    assert found == {"one.png": expected["tile 0.png"], "tile 1.png": expected["tile 1.png"]}
    assert not (place.root / "objects/.landseg").exists()


def test_labels_are_scored(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        write_label(tmp_path / "given" / f"tile {index}.png", random_label(index, 40))
        write_image(tmp_path / "both/images" / f"{index}.tif", random_image(index, 40))
        write_label(tmp_path / "both/labels" / f"{index}.png", random_label(index, 40))
    tiles = [place.images / f"tile {index}.tif" for index in range(2)]
    tables = []
    for arguments, out in (((*tiles, "--labels", tmp_path / "given"), "given"), ((tmp_path / "both",), "both")):
        capsys.readouterr()
        assert place.predict(*arguments, out=out, models=1) == 0
        tables.append(
            [line for line in capsys.readouterr().out.splitlines() if line.startswith(("test", "swin", "ens"))]
        )
        summary = json.loads((place.root / out / "summary.json").read_text())
        assert summary["scored_split"] == "test"
    assert len(tables[0]) == 3
    assert tables[0] == tables[1]


def test_another_scale_is_given_in_a_file(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = (random_image(0, 40).astype(np.uint16) * 10).astype(np.uint16)
    write_image(tmp_path / "tile 0.tif", deep)
    assert place.predict(tmp_path / "tile 0.tif", out="deep", models=1) == 2
    told = capsys.readouterr().err
    assert "scale: {method: range" in told
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({"scale": {"method": "range", "low": 0, "high": 2550}}))
    assert place.predict(tmp_path / "tile 0.tif", "--dataset-yaml", tmp_path / "d.yaml", out="deep", models=1) == 0
    assert place.predict(place.images / "tile 0.tif", out="flat", models=1) == 0
    assert maps(place.root / "deep") == maps(place.root / "flat")


def test_the_models_nodata_is_applied(place: Place, tmp_path: Path) -> None:
    """It was in the dataset.yaml of the training images."""
    raw, store = tmp_path / "raw", place.store
    write_raw(raw, train=1, val=0, test=0, size=40)
    write_config(raw, nodata=7)
    place.stage(raw)
    dataset = str(place.root / "staged/dataset.json")
    images = input_of(StagedDataset.open(dataset, tmp_path).manifest, (40, 40))
    model = write_model(store, dataset, seed=77, images=images)
    image = np.maximum(random_image(3, 40), 8)
    image[:9, :5] = 7
    write_image(tmp_path / "new/a.tif", image)
    hour_ago = time.time() - 3600  # so that the image is known to be as it was
    os.utime(tmp_path / "new/a.tif", (hour_ago, hour_ago))
    arguments = ["--model", model, "--output-dir", str(tmp_path / "maps"), *OPTIONS]
    assert main(["predict", str(tmp_path / "new"), *arguments]) == 0
    found = np.asarray(Image.open(tmp_path / "maps/a.png"))
    np.testing.assert_array_equal(found == 255, (image == 7).all(axis=2))
    (tmp_path / "none.yaml").write_text("nodata: none")
    assert main(["predict", str(tmp_path / "new"), *arguments, "--dataset-yaml", str(tmp_path / "none.yaml")]) == 0
    assert (np.asarray(Image.open(tmp_path / "maps/a.png")) < 255).all()


@pytest.mark.parametrize("uri", ["", "a.tif"])
def test_a_mask_in_another_file_is_refused(
    uri: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    write_image(images / "a.tif", random_image(3, 40))
    (images / "a.tif.msk").write_bytes((images / "a.tif").read_bytes())
    assert place.predict(images / uri, out="masked", models=1) == 2
    error = capsys.readouterr().err
    assert "a.tif: expected its mask inside of the file, found it in another, a.tif.msk" in error
    assert "nodata: none in dataset.yaml" in error
    assert "dataset.yaml is the file given by --dataset-yaml" in error


def test_floats_need_no_scale_but_the_models(place: Place, tmp_path: Path) -> None:
    images = ModelInput(
        bands=(1, 2, 3),
        num_file_bands=3,
        dtype="float32",
        scale=Scale(low=(0.0,) * 3, high=(1.0,) * 3, method="range"),
        tile_size=(40, 40),
    )
    place.stage(place.root / "first")
    model = write_model(tmp_path, str(place.root / "staged/dataset.json"), images=images)
    write_image(tmp_path / "tile 0.tif", (random_image(0, 40) / 255).astype(np.float32))
    out = place.root / "floats"
    assert place.predict(tmp_path / "tile 0.tif", "--model", model, out="floats", models=0) == 0
    assert place.predict(place.images / "tile 0.tif", out="bytes", models=1) == 0
    assert maps(out) == maps(place.root / "bytes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.tif"], "absent.tif: no such file or folder"),
        (["IMAGES", "--weights", "auto"], "one per model, found 'auto' (average-probs fits weights to val)"),
        (
            ["IMAGES", "--weights", "-1,2"],
            "expected equal, or numbers of at least 0 and not all 0, one per model, found",
        ),
        (["IMAGES", "--weights", "0e5,0"], "not all 0, one per model, found '0e5,0'"),
        (["IMAGES", "--weights", "1,1e400"], "not all 0, one per model, found '1,1e400'"),
        (["IMAGES", "--weights", "1"], "--weights: expected 2 weights, one per model, found 1"),
        (["IMAGES", "--model", "TWIN"], "holds the same checkpoint as"),
        (["IMAGES", "--tile-px", "8"], "--tile-px: expected 32 to 8192, found 8"),
        (["IMAGES", "--dataset-yaml", "absent.yaml"], "--dataset-yaml: absent.yaml cannot be read"),
        (["ROOT"], "--output-dir: expected a folder outside of the images"),
    ],
)
def test_bad_arguments(place: Place, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"IMAGES": place.images, "ROOT": place.root, "TWIN": place.models[0]}
    assert place.predict(*(given.get(argument, argument) for argument in arguments), out="bad") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (random_image(0, 40).astype(np.uint16) * 9, "scale: {method: range, low: "),
        (random_image(0, 40)[..., :1], "the dataset gives 1 of files with 1 (predict images that have all of them)"),
        (
            np.tile(random_image(0, 40), 2)[..., :5],
            "band_names: [1, 2, 3, other4, other5], and stage again; ",
        ),
    ],
)
def test_what_a_model_cannot_take_is_refused_before_any_predicts(
    image: np.ndarray, advice: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gdal(tmp_path / "tile.tif", image)
    out = place.root / f"refused-{image.shape[2]}"
    assert place.predict(tmp_path / "tile.tif", out=out.name) == 2
    told = capsys.readouterr().err
    assert advice in told
    assert ("dataset.yaml is the file given by --dataset-yaml" in told) == ("into dataset.yaml" in told)
    assert not (out / ".landseg/runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(std=[0.0, 1.0, 1.0]), "expected positive values of std, found 0"),
        (lambda manifest: manifest.update(mean=[1.0, 2.0]), "expected mean and std of 3 bands, found 2 and 3"),
        (
            lambda manifest: manifest["input"].update(scale={"low": [9.0] * 3, "high": [1.0] * 3}),
            "field input.scale: scale needs each low value below its high one",
        ),
        (lambda manifest: manifest["input"].update(bands=[1, 1, 2]), "field input: bands must differ from each other"),
        (
            lambda manifest: manifest.update(
                config=manifest["config"].replace("dict(type='LoadImageFromFile'),", "dict(type='LoadMine'),")
            ),
            "test_pipeline of {}: expected tiles to be read by LoadImageFromFile, found LoadMine",
        ),
    ],
)
def test_a_model_that_would_be_applied_wrongly_is_refused_before_anything_is_staged(
    place: Place, tmp_path: Path, change: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(place.models[1]).parent, tmp_path / "model")
    path = tmp_path / "model" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    arguments = ["--model", str(path), "--output-dir", str(place.root / "refused"), *OPTIONS]
    assert place.predict(place.images, *arguments, out="refused", models=1) == 2
    assert message.format(path) in capsys.readouterr().err
    assert not (place.root / "refused" / ".landseg" / "datasets").exists()


def test_files_of_others_are_not_written_over(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels are called as their images are, and so are maps."""
    drawn = place.root / "drawn" / "tile 0.png"
    write_label(drawn, random_label(0, 40))
    before = drawn.read_bytes()
    assert place.predict(place.images / "tile 0.tif", out="drawn", models=1) == 2
    assert (
        f"{drawn}: expected nothing where a map goes, found a file that landseg did not write"
        in capsys.readouterr().err
    )
    assert drawn.read_bytes() == before
    drawn.unlink()
    layer = place.root / "drawn" / "entropy" / "tile 0.png"
    write_label(layer, random_label(0, 40))
    assert place.predict(place.images / "tile 0.tif", "--layers", "entropy", out="drawn", models=1) == 2
    assert f"{layer}: expected nothing where a map goes" in capsys.readouterr().err
    assert not (place.root / "drawn/.landseg/runs").exists(), "found before the model predicts"
    for _ in range(2):  # its own maps it does write over
        assert place.predict(place.images / "tile 0.tif", out="drawn", models=1) == 0
    assert json.loads((place.root / "drawn" / "maps.json").read_text()) == ["tile 0.png"]


def test_what_has_no_end_is_not_read(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)
    for arguments, message in (
        (["--dataset-yaml", tmp_path / "pipe"], "--dataset-yaml: expected a regular file"),
        (["--dataset-yaml", "/dev/zero"], "--dataset-yaml: expected a regular file"),
        (["--dataset-yaml", tmp_path / "large.yaml"], "expected at most 1 MiB of YAML"),
        (["--model", tmp_path / "pipe"], "pipe: expected a regular file, found something else"),
        (["--model", tmp_path / "large.json"], "large.json: expected at most 67108864 bytes, found 1099511627776"),
    ):
        assert place.predict(place.images, *arguments, out="endless", models=1) == 2
        assert message in capsys.readouterr().err


def test_storage_among_the_images_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.predict(place.images, "--storage-uri", place.images / "store") == 2
    assert "--storage-uri: expected a place outside of the images, found" in capsys.readouterr().err
    assert not (place.images / "store").exists()


def test_models_of_other_classes_are_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(tmp_path / "raw", train=1, val=0, test=0, classes=list(reversed(CLASSES)))
    place.stage(tmp_path / "raw")
    other = write_model(tmp_path, str(place.root / "staged/dataset.json"))
    assert place.predict(place.images, "--model", other, out="bad") == 2
    assert "expected the classes of" in capsys.readouterr().err


def test_the_manifest_is_that_of_the_maps(place: Place) -> None:
    found = storage.read_document(LabelsManifest, str(place.root / "maps/labels.json")).document
    assert [member.model for member in found.members] == ["resnest", "swin"]
    assert sum(archive.num_tiles for archive in found.archives("test")) == 2 + 9
