"""`landseg predict`: trained models label images, with one command on one machine.

It stages, exports and averages through the same stages as the pipeline: what it writes is what they would write.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from landseg import storage
from landseg.cli.progress import Steps
from landseg.contracts.errors import ConfigError, ContractError
from landseg.contracts.executor import Outputs
from landseg.contracts.names import check_run_id
from landseg.contracts.parameters import add_parameter
from landseg.contracts.probabilities import VIEWS
from landseg.contracts.yaml_documents import parse_yaml
from landseg.dataset.reader import StagedDataset
from landseg.dataset.shards import DEFAULT_SHARD_BYTES
from landseg.dataset.staging.result import Options
from landseg.ensemble.maps.files import remove_maps
from landseg.models.model_input import same_values
from landseg.models.trained_model import TrainedModel, open_model
from landseg.raw.config_rules import RangeScale
from landseg.raw.dataset_yaml import DatasetConfig, parse_config
from landseg.raw.layout.inputs import SPLIT, list_inputs, open_inputs
from landseg.raw.layout.listing import RawDataset
from landseg.raw.probing import probe_kind
from landseg.raw.processes import num_cpus
from landseg.stages import average_probs, export_probs, stage_data
from landseg.stages.shared.context import OUTPUT_FILES, StageContext, scratch_folder
from landseg.stages.shared.options import add_network_arguments, check_writable, local_folder, storage_root
from landseg.stages.shared.results import tell, write_maps

HELP = "label images with trained models: one command, from files to maps"
EXAMPLE = """landseg predict --model swin/model.json --model resnest/model.json scene.tif tiles/ --output-dir maps"""

WORK = ".landseg"
"""In `--output-dir`: what staging, exporting and averaging write, unless `--storage-uri` says otherwise."""

_SIDE = 512
"""Of the windows of a scene, in pixels, where no model says what it was trained on."""
_WEIGHT_OF_A_VIEW = 8.0
"""How long a model takes for a view, where staging and averaging take 1 each."""

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="an image, a folder, an s3:// object or prefix, a .zip or .tar"
    )
    group = parser.add_argument_group("what to predict with")
    group.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="REF",
        help="a model's manifest, or a reference to it, or a checkpoint (*.pth) of mmsegmentation 0.x; repeatable",
    )
    add_parameter(group, "tta")
    group.add_argument(
        "--weights", default="equal", metavar="equal|A,B", help="equal, or one number per model in their order"
    )
    group = parser.add_argument_group("what the images are")
    group.add_argument("--labels", default="", metavar="URI", help="labels of the images, to score the maps")
    group.add_argument(
        "--dataset-yaml",
        type=Path,
        metavar="FILE",
        help="how to read the images, where the models cannot know it: band_names, scale, scenes, ...",
    )
    group.add_argument(
        "--tile-px",
        type=int,
        metavar="N",
        help="cut images with a longer side into tiles of N px (default: those that the models were trained on)",
    )
    group = parser.add_argument_group("what to write")
    group.add_argument("--output-dir", type=local_folder, required=True, metavar="DIR", help="maps and report go here")
    add_parameter(group, "layers")
    group.add_argument("--mosaic", action="store_true", help="also write mosaic.vrt, all label maps as one")
    group = parser.add_argument_group("how to compute")
    add_network_arguments(group)
    add_parameter(group, "dtype")
    group.add_argument(
        "--num-workers", type=int, default=num_cpus(), metavar="N", help="threads (default: the CPUs, %(default)s)"
    )
    group = parser.add_argument_group("where work goes")
    group.add_argument(
        "--storage-uri",
        metavar="URI",
        help=f"root in object storage, or a folder; a killed prediction resumes there (default: DIR/{WORK})",
    )
    group.add_argument("--run-id", default="predict", metavar="ID", help="names the run in it")
    group.add_argument(
        "--scratch", type=local_folder, metavar="DIR", help="local folder for temporary files (default: $TMPDIR)"
    )


def run(args: argparse.Namespace) -> None:
    """Stage the images, export each model's probabilities, average them, write maps and report."""
    _check(args)
    storage_uri = storage_root(args.storage_uri or str(args.output_dir / WORK))
    storage.clean_abandoned(storage_uri)
    remove_maps(args.output_dir)
    written = Outputs(directory=args.output_dir)
    written.clear(OUTPUT_FILES["average-probs"])
    with tempfile.TemporaryDirectory(prefix="landseg-", dir=scratch_folder(args.scratch)) as folder:
        scratch = Path(folder)
        models = _open_models(args.model, scratch, storage_uri)
        config = _config(args, models)
        source = open_inputs(args.inputs, args.labels, scratch)
        raw = _with_scale(list_inputs(source, config, bool(args.labels)), models)

        def context(stage: str, outputs: Outputs | None = None) -> StageContext:
            inner = scratch / stage
            inner.mkdir(exist_ok=True)
            run_id = "" if stage == "stage-data" else args.run_id
            return StageContext(stage, storage_uri, run_id, outputs or Outputs(), {}, inner)

        export = _WEIGHT_OF_A_VIEW * len(VIEWS[args.tta])
        with Steps("predicting", [1, *(export for _ in models), 1]) as steps:
            options = Options(DEFAULT_SHARD_BYTES, args.num_workers, for_models=False)
            _, staged = stage_data.stage(context("stage-data"), raw, options, {"source": source.uri})
            assert staged.loaded is not None, "wrong files end the staging"
            dataset = StagedDataset.open(staged.loaded.uri, scratch / "shards", access="neighbours")
            steps.next()
            probs = []
            for model, name in zip(models, _names(models), strict=True):
                given = _arguments(args, name=name)
                exported = export_probs.export_model(context("export-probs"), dataset, model, given)
                assert exported is not None, "there is one share"
                probs.append(exported.uri)
                steps.next()
            averaging = context("average-probs", written)
            dataset = StagedDataset.open(staged.loaded.uri, scratch / "dataset", access="few")
            labels = average_probs.average(averaging, dataset, probs, _arguments(args))
            assert labels is not None, "there is one share"
            average_probs.write_outputs(averaging, labels)
            write_maps(labels, dataset, args.output_dir, scratch, flat=True, mosaic=args.mosaic)
            written.close()
            steps.next()
    tell(labels, args.output_dir, args.output_dir)
    _log.info("%s holds the work of this prediction; without it, the next one begins anew", storage_uri)


def _check(args: argparse.Namespace) -> None:
    check_run_id("--run-id", args.run_id)
    if args.batch_size < 1:
        raise ConfigError("--batch-size", f"expected at least 1, found {args.batch_size}")
    if args.weights == "auto":
        raise ConfigError("--weights", "expected equal or numbers, found auto", "average-probs fits weights to val")
    if args.tile_px is not None and not 32 <= args.tile_px <= 8192:
        raise ConfigError("--tile-px", f"expected 32 to 8192, found {args.tile_px}")
    average_probs.check_arguments(_arguments(args))
    check_writable("--output-dir", args.output_dir)
    output = args.output_dir.resolve()
    for uri in args.inputs:
        if not storage.is_s3(uri) and output.is_relative_to(Path(uri).resolve()):
            raise ConfigError("--output-dir", f"expected a folder outside of the images, found {output} in {uri}")


def _arguments(args: argparse.Namespace, **more: Any) -> argparse.Namespace:
    """The arguments of a stage: those of this verb, and what it leaves at the stage's default."""
    fixed: dict[str, Any] = {"dataset": "", "probs": [], "splits": SPLIT, "views": "mean", "worker": "1/1"}
    fixed |= {"temperature": "none", "seen_val": "equal"}
    return argparse.Namespace(**{**vars(args), **fixed, **more})


def _open_models(refs: Sequence[str], scratch: Path, storage_uri: str) -> list[TrainedModel]:
    models = []
    for number, ref in enumerate(refs):
        folder = scratch / f"model-{number}"
        folder.mkdir()
        models.append(open_model(ref, folder, storage_uri))
        (folder / "model.pth").unlink(missing_ok=True)
    first = models[0]
    for model in models[1:]:
        if model.classes != first.classes:
            raise ContractError(
                model.uri,
                f"expected the classes of {first.uri}, {', '.join(first.classes)}, found {', '.join(model.classes)}",
                "predict with models of one class list, in one order",
            )
    return models


def _names(models: Sequence[TrainedModel]) -> Iterator[str]:
    """A name for each model in the report: its own, with a number where several have the same."""
    taken: set[str] = set()
    for model in models:
        name, number = model.name, 1
        while name in taken:
            number += 1
            name = f"{model.name[:60]}-{number}"
        taken.add(name)
        yield name


def _config(args: argparse.Namespace, models: Sequence[TrainedModel]) -> DatasetConfig:
    """The `dataset.yaml` of the images: what the models say, and what `--dataset-yaml` adds."""
    sides = [max(model.input.tile_size) for model in models if model.input and model.input.tile_size]
    side = args.tile_px or min(8192, max([32, *sides]) if sides else _SIDE)
    classes = list(models[0].classes)
    palette = next((model.palette for model in models if model.palette), None)
    made: dict[str, Any] = {
        "version": 1,
        "name": _dataset_name(args.inputs),
        "classes": classes,
        "scenes": {"max_px": max(64, side), "tile_px": side, "overlap_px": side // 8},
    }
    if palette:
        made["palette"] = [list(colour) for colour in palette]
    where: object = "dataset.yaml"
    if args.dataset_yaml is not None:
        where = args.dataset_yaml
        given = _read_yaml(args.dataset_yaml)
        if given.get("classes", classes) != classes:
            raise ContractError(
                where, f"expected the models' classes, {', '.join(classes)}, found others", "leave them out"
            )
        made |= given
    return parse_config(json.dumps(made).encode(), where)


def _with_scale(raw: RawDataset, models: Sequence[TrainedModel]) -> RawDataset:
    """The models' scale for images whose values 16 bits do not hold: they are stored within it.

    Where a model was trained on other images, or dataset.yaml gives a scale, nothing changes; staging asks for what is
    missing.
    """
    kind = probe_kind(raw.source, raw.pairing.tiles[SPLIT])
    if kind is None or not kind.is_wide or raw.config.scale is not None:
        return raw
    inputs = [model.input for model in models if model.input and model.input.dtype]
    known = [one for one in inputs if one.dtype and same_values(one.dtype, kind.dtype)]
    scales = [one.scale for one in known if one.scale]
    if len(scales) < len(models):
        return raw
    alike = len({(one.bands, scale.low, scale.high) for one, scale in zip(known, scales, strict=True)}) == 1
    if alike and known[0].bands == tuple(range(1, kind.num_bands + 1)):
        low, high = scales[0].low, scales[0].high
    else:
        low, high = (min(min(scale.low) for scale in scales),), (max(max(scale.high) for scale in scales),)
    scale = RangeScale(method="range", low=low, high=high)
    return replace(raw, config=raw.config.model_copy(update={"scale": scale}))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = parse_yaml(path.read_bytes(), path)
    except OSError as err:
        raise ConfigError("--dataset-yaml", f"{path} cannot be read: {(err.strerror or str(err)).lower()}") from err
    if not isinstance(found, dict):
        raise ContractError(path, f"expected a mapping, found {type(found).__name__}")
    return found


def _dataset_name(inputs: Sequence[str]) -> str:
    """A dataset's name from the first input's."""
    stem = inputs[0].rstrip("/").rpartition("/")[2].partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:60] or "images"
