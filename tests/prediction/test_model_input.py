"""A model's own bands and scale are applied to whatever is staged, or it is refused with the lines to write."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from mmseg.datasets.pipelines import LoadImageFromFile
from random_models import write_model
from raw_tiles import CLASSES, write_config, write_image, write_raw

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.dataset import DatasetManifest, Scale
from landseg.contracts.errors import ContractError
from landseg.contracts.model import ModelInput
from landseg.dataset.reader import StagedDataset
from landseg.models.model_input import common_nodata, fit_input, input_of
from landseg.models.trained_model import TrainedModel, open_model
from landseg.probabilities.reader import ProbsReader

RGB = (1, 2, 3)


def trained(images: ModelInput | None, num_bands: int = 3) -> TrainedModel:
    ones = (1.0,) * num_bands
    return TrainedModel("model.json", "swin", "", "", "", "", CLASSES, None, images, ones, ones)


def manifest(bands: tuple[int, ...], num_bands: int, dtype: str = "uint8", **fields: Any) -> DatasetManifest:
    schema = {
        "classes": CLASSES,
        "palette": ((0, 0, 0),) * len(CLASSES),
        "bands": bands,
        "scale": fields.pop("scale", None),
    }
    values = {"dataset_id": "0123456789abcdef", "name": "x", "num_bands": num_bands, "dtype": dtype, "splits": {}}
    return DatasetManifest.model_validate({**values, "class_schema": schema, **fields})


def scale(low: float, high: float, bands: int = 3, method: Any = "range") -> Scale:
    return Scale(low=(low,) * bands, high=(high,) * bands, method=method)


@pytest.mark.parametrize(
    ("images", "staged", "expected"),
    [
        (ModelInput(bands=(4, 3, 2), num_file_bands=12), manifest(tuple(range(1, 13)), 12), (4, 3, 2)),
        (ModelInput(bands=RGB), manifest(RGB, 8), RGB),
        (
            ModelInput(bands=RGB, band_names=("red", "green", "blue")),
            manifest(RGB, 8, band_names=tuple("abcdefgh")),
            None,
        ),
        (
            ModelInput(bands=(1, 2), band_names=("B02", "B8A"), num_file_bands=2),
            manifest((1, 2, 3), 3, band_names=("b8a", "B03", "B02")),
            (3, 1),
        ),
        (ModelInput(bands=(4, 3, 2), num_file_bands=4), manifest(RGB, 3, band_names=("2", "3", "4")), (3, 2, 1)),
        (ModelInput(bands=RGB, num_file_bands=3), manifest((3, 2, 1), 3), None),
        (ModelInput(bands=RGB, num_file_bands=3), manifest((1, 2, 3, 4), 4), None),
        (ModelInput(bands=tuple(range(1, 13)), num_file_bands=12), manifest(tuple(range(1, 14)), 13), None),
        (None, manifest((3, 2, 1), 4), (3, 2, 1)),
        (None, manifest((1, 2, 3, 4), 4), None),
        (None, manifest((1, 2, 3, 4), 4, band_names=("x", "3", "2", "1")), (4, 3, 2)),
    ],
)
def test_bands_by_name_or_number(
    images: ModelInput | None, staged: DatasetManifest, expected: tuple[int, ...] | None
) -> None:
    model = trained(images, len(images.bands) if images else 3)
    if images:
        model = trained(images.model_copy(update={"dtype": "uint8"}), len(images.bands))
    if expected is None:
        with pytest.raises(ContractError, match=r"the model takes .*(dataset gives|files have).*dataset\.yaml"):
            fit_input(model, staged)
    else:
        assert fit_input(model, staged).bands == expected


def read_by_mmseg(path: Path, **options: Any) -> np.ndarray:
    """An image of four bands as mmsegmentation's loader gives it to a model."""
    load = LoadImageFromFile(**options)
    return load({"img_prefix": None, "img_info": {"filename": str(path)}})["img"]


@pytest.mark.parametrize("options", [{"color_type": "unchanged"}, {"imdecode_backend": "tifffile"}])
def test_four_bands_in_the_order_in_which_mmsegs_loader_gives_them(options: dict[str, str], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unspecified"])
    seen = read_by_mmseg(tmp_path / "a.tif", **{"color_type": "unchanged"} | options)
    load = ", ".join(f"{key}={value!r}" for key, value in options.items())
    config = f"model = dict(type='EncoderDecoder')\ntest_pipeline = [dict(type='LoadImageFromFile', {load})]\n"
    model = replace(trained(None, 4), config=config)
    bands = fit_input(model, manifest((1, 2, 3, 4), 4)).bands
    np.testing.assert_array_equal(image[..., np.array(bands) - 1], seen)
    assert fit_input(model, manifest((3, 2, 1, 4), 4)).bands == (3, 2, 1, 4)


SIXTEEN_BITS = ModelInput(bands=RGB, num_file_bands=3, dtype="uint16", scale=scale(79, 3922, method="percentile"))
EIGHT_BITS = ModelInput(bands=RGB, num_file_bands=3, dtype="uint8")


@pytest.mark.parametrize(
    ("images", "staged", "expected"),
    [
        (SIXTEEN_BITS, manifest(RGB, 3, "uint16", scale=scale(3, 964, method="percentile")), SIXTEEN_BITS.scale),
        (SIXTEEN_BITS, manifest(RGB, 3, "uint16", scale=scale(0, 65535)), SIXTEEN_BITS.scale),
        (SIXTEEN_BITS.model_copy(update={"dtype": "int16"}), manifest(RGB, 3, "uint16"), SIXTEEN_BITS.scale),
        (SIXTEEN_BITS, manifest(RGB, 3), ContractError),
        (SIXTEEN_BITS.model_copy(update={"dtype": None}), manifest(RGB, 3), ContractError),
        (SIXTEEN_BITS, manifest(RGB, 3, scale=scale(0, 200)), scale(0, 200)),
        (EIGHT_BITS, manifest(RGB, 3, scale=scale(0, 200)), None),
        (EIGHT_BITS, manifest(RGB, 3, "uint16", scale=scale(3, 964, method="percentile")), ContractError),
        (EIGHT_BITS, manifest(RGB, 3, "uint16", scale=scale(3, 964, method=None)), ContractError),
        (None, manifest(RGB, 3), None),
        (None, manifest(RGB, 3, "uint16", scale=scale(0, 3000)), scale(0, 3000)),
        (None, manifest(RGB, 3, "uint16", scale=scale(3, 964, method="percentile")), ContractError),
        (None, manifest(RGB, 3, scale=scale(3, 64, method="percentile")), ContractError),
    ],
)
def test_the_models_scale_or_one_that_is_given(
    images: ModelInput | None, staged: DatasetManifest, expected: Scale | type[ContractError] | None
) -> None:
    model = trained(images)
    if expected is ContractError:
        with pytest.raises(ContractError, match=r"trained on uint.*dataset holds uint.*scale: \{method: range, low: "):
            fit_input(model, staged)
    else:
        assert fit_input(model, staged).scale == expected


def stage(root: Path, name: str) -> str:
    out = root / f"{name}-out"
    arguments = ["--source", str(root / name), "--storage-uri", str(root / "store"), "--output-dir", str(out)]
    assert main(["stage-data", *arguments, "--num-workers", "1"]) == 0
    return str(out / "dataset.json")


def export(root: Path, dataset: str, model: str, name: str, splits: str = "test") -> Path:
    arguments = ["--dataset", dataset, "--model", model, "--storage-uri", str(root / "store"), "--run-id", "run"]
    options = ["--splits", splits, "--precision", "fp32", "--tta", "none", "--num-workers", "1", "--dtype", "float32"]
    assert main(["export-probs", *arguments, *options, "--output-dir", str(root / name)]) == 0
    return root / name / "probs.json"


def stored(probs: Path) -> list[bytes]:
    """The stored probabilities of the two tiles of test: equal where each bit is."""
    reader = ProbsReader.open(str(probs), probs.parent)
    return [reader.read_tile("test", tile_id).tobytes() for tile_id in ("t0000", "t0001")]


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 bands of 16 bits, staged with and without the tiles of train, and two models of other bands and scales."""
    root = tmp_path_factory.mktemp("twelve")
    write_raw(root / "full", train=3, val=0, test=2, size=32, bands=12, dtype="uint16")
    for seed, tile in enumerate(sorted((root / "full/test/images").iterdir())):
        dark = np.random.default_rng(seed).integers(0, 900, (32, 32, 12)).astype(np.uint16)
        write_image(tile, dark)
    write_config(root / "alone")
    shutil.copytree(root / "full/test", root / "alone/test")
    return root


def test_tiles_staged_alone_are_labelled_as_in_the_full_set(twelve: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, alone = stage(twelve, "full"), stage(twelve, "alone")
    capsys.readouterr()
    opened = [StagedDataset.open(ref, twelve / "cache") for ref in (full, alone)]
    assert opened[0].schema.scale != opened[1].schema.scale
    for family, bands in (("swin", tuple(range(1, 13))), ("resnest", (4, 3, 2))):
        images = input_of(opened[0].manifest)
        picked = [images.bands.index(band) for band in bands]
        assert images.scale is not None
        own = Scale(
            **{end: tuple(getattr(images.scale, end)[i] + 7 * len(bands) for i in picked) for end in ("low", "high")}
        )
        images = images.model_copy(update={"bands": bands, "scale": own})
        model = write_model(twelve / "store", full, family=family, images=images)
        probs = [export(twelve, ref, model, f"{family}-{name}") for ref, name in ((full, "full"), (alone, "alone"))]
        assert stored(probs[0]) == stored(probs[1])
        # The checkpoint by its path says the same.
        checkpoint = f"{storage.parent(model)}/model.pth"
        assert stored(export(twelve, alone, checkpoint, f"{family}-pth")) == stored(probs[0])
    assert "warning" not in capsys.readouterr().err
    flags = [text for name in ("swin", "resnest") for text in ("--probs", str(twelve / f"{name}-alone/probs.json"))]
    arguments = ["--dataset", alone, *flags, "--storage-uri", str(twelve / "store"), "--run-id", "run"]
    assert main(["average-probs", *arguments, "--num-workers", "1"]) == 0


def test_a_manifest_of_an_earlier_release_keeps_its_scale(twelve: Path) -> None:
    full, alone = stage(twelve, "full"), stage(twelve, "alone")
    manifests = [StagedDataset.open(ref, twelve / "cache").manifest for ref in (full, alone)]
    model = open_model(write_model(twelve / "store", full, 7), twelve, str(twelve / "store"))
    assert model.input is not None
    assert model.input.model_copy(update={"tile_size": None}) == input_of(manifests[0])
    assert fit_input(model, manifests[1]).scale == manifests[0].class_schema.scale
    lost = open_model(write_model(twelve / "store", full, 7), twelve, str(twelve / "elsewhere"))
    assert lost.input is not None
    assert (lost.input.dtype, lost.input.num_file_bands) == (None, None)
    assert fit_input(lost, manifests[1]).scale == manifests[0].class_schema.scale


def test_the_advice_of_a_refusal_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(tmp_path / "first", train=1, val=0, test=1, size=32, dtype="uint16")
    write_raw(tmp_path / "second", train=0, val=0, test=1, size=32, bands=4)
    first = stage(tmp_path, "first")
    images = input_of(StagedDataset.open(first, tmp_path).manifest)
    model = write_model(tmp_path / "store", first, images=images)
    arguments = ["--model", model, "--storage-uri", str(tmp_path / "store"), "--run-id", "run", "--splits", "test"]
    description = yaml.safe_load((tmp_path / "second/dataset.yaml").read_text())
    for field in ("band_names", "scale"):
        capsys.readouterr()
        assert main(["export-probs", "--dataset", stage(tmp_path, "second"), *arguments]) == 2
        advice = re.search(rf"e\.g\. ({field}: (\[.*?\]|{{.*?}}))", capsys.readouterr().err)
        assert advice
        description |= yaml.safe_load(advice[1])
        (tmp_path / "second/dataset.yaml").write_text(yaml.safe_dump(description))
    assert main(["export-probs", "--dataset", stage(tmp_path, "second"), *arguments, "--tta", "none"]) == 0


def test_band_names_are_recorded_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["B02", "B03", "B04", "B08"]
    raw = write_raw(tmp_path / "raw", train=1, val=0, test=0, bands=4, band_names=names)
    found = StagedDataset.open(stage(tmp_path, "raw"), tmp_path).manifest
    assert found.band_names == tuple(names)
    assert input_of(found).band_names == tuple(names)
    write_config(raw, band_names=names[:3])
    arguments = ["--source", str(raw), "--storage-uri", str(tmp_path / "store")]
    assert main(["stage-data", *arguments]) == 2
    assert "band_names gives 3 names, the images have 4 bands" in capsys.readouterr().out


def test_a_dataset_without_band_names_keeps_its_id(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", train=1, val=0, test=0)
    assert StagedDataset.open(stage(tmp_path, "raw"), tmp_path).manifest.dataset_id == "b65b70d265364880"


def floats(low: float, high: float) -> DatasetManifest:
    """A dataset of one float band that stores low-high as 0-65535."""
    source = {"dtype": "float32", "first": (low,), "step": ((high - low) / 65535,)}
    return manifest((1,), 1, "uint16", source_values=source, scale=scale(0, 65535, 1))


def test_scales_are_compared_in_the_values_of_the_files() -> None:
    model = trained(input_of(floats(0.0, 1.0)), 1)
    assert model.input is not None
    assert model.input.scale == scale(0, 1, 1)
    fitted = fit_input(model, floats(-1.0, 3.0)).scale
    assert fitted is not None
    np.testing.assert_allclose((fitted.low, fitted.high), ((65535 / 4,), (65535 / 2,)))
    with pytest.raises(ContractError, match=r"within its scale \(write .*scale: .method: range, low: .0., high: .1"):
        fit_input(model, floats(0.0, 0.5))


@pytest.mark.parametrize(("nodata", "text"), [(0.0, "0"), ("none", "none"), ((0.0, 1.0, 2.0), "[0, 1, 2]")])
def test_nodata_of_dataset_yaml_is_asked_for(nodata: Any, text: str) -> None:
    staged = manifest(RGB, 3, nodata=nodata)
    model = trained(input_of(staged))
    assert model.input is not None and model.input.nodata == nodata
    assert ModelInput.model_validate_json(model.input.model_dump_json()) == model.input
    fit_input(model, staged)
    fit_input(model, manifest(RGB, 3, nodata="none"))
    fit_input(trained(input_of(manifest(RGB, 3))), staged)
    with pytest.raises(ContractError, match=re.escape(f"write nodata: {text} into it")):
        fit_input(model, manifest(RGB, 3))
    assert "nodata" not in input_of(manifest(RGB, 3)).model_dump(mode="json")


def test_models_agree_on_nodata() -> None:
    zero, more, silent = (trained(input_of(manifest(RGB, 3, nodata=value))) for value in (0.0, (0.0, 1.0, 2.0), None))
    assert common_nodata([silent, trained(None)]) is None
    assert common_nodata([silent, zero, zero]) == 0
    assert common_nodata([more]) == (0.0, 1.0, 2.0)
    with pytest.raises(ContractError, match="with nodata"):
        common_nodata([zero, more])
    with pytest.raises(ContractError, match="in its bands 3, 2, 1"):
        common_nodata([trained(input_of(manifest((3, 2, 1), 3, nodata=(0.0, 1.0, 2.0))))])
