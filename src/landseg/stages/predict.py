"""`landseg predict`: trained models label images, with one command on one machine.

It stages, exports and averages through the same stages as the pipeline: what it writes is what they would write.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from landseg import storage
from landseg.cli.progress import Steps
from landseg.contracts.errors import ConfigError, ContractError, DataError
from landseg.contracts.executor import Outputs
from landseg.contracts.names import check_run_id
from landseg.contracts.parameters import add_parameter, parameters
from landseg.contracts.probabilities import VIEWS
from landseg.dataset.reader import StagedDataset
from landseg.dataset.shards import DEFAULT_SHARD_BYTES
from landseg.dataset.staging.result import Options
from landseg.models.model_input import fit_input
from landseg.models.trained_model import TrainedModel, check_predicts, open_model
from landseg.raw.layout.inputs import SPLIT, list_inputs, open_inputs
from landseg.raw.processes import num_cpus
from landseg.stages import average_probs, export_probs, stage_data
from landseg.stages.shared.context import OUTPUT_FILES, StageContext, stage_scratch
from landseg.stages.shared.images_to_predict import dataset_config, with_scale
from landseg.stages.shared.map_folder import MapFolder
from landseg.stages.shared.options import (
    add_joint_maps_arguments,
    add_network_arguments,
    batch_size,
    local_folder,
    storage_root,
)
from landseg.stages.shared.results import tell
from landseg.stages.shared.settled_average import parse_layers, parse_weights

HELP = "label images with trained models: one command, from files to maps"
EXAMPLE = """landseg predict --model swin/model.json --model resnest/model.json scene.tif tiles/ --output-dir maps"""

WORK = ".landseg"
"""In `--output-dir`: what staging, exporting and averaging write, unless `--storage-uri` says otherwise."""

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
        help="how to read the images, if the models cannot know: a file with band_names, scale, scenes, ...",
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
    add_joint_maps_arguments(group)
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
    group.add_argument("--run-id", default="predict", metavar="ID", help="name of the run there")
    group.add_argument(
        "--scratch", type=local_folder, metavar="DIR", help="local folder for temporary files (default: $TMPDIR)"
    )


def run(args: argparse.Namespace) -> None:
    """Stage the images, export each model's probabilities, average them, write maps and report."""
    _check(args)
    with _advice_names_the_option():
        _run(args)


@contextlib.contextmanager
def _advice_names_the_option() -> Iterator[None]:
    """Say of each advice about `dataset.yaml` which file that is here."""
    try:
        yield
    except (ConfigError, ContractError, DataError) as err:
        told = f"{err.where} {err.problem} {err.hint}"
        if "dataset.yaml" not in told or "--dataset-yaml" in told:
            raise
        hint = f"{err.hint}; " if err.hint else ""
        raise type(err)(err.where, err.problem, f"{hint}dataset.yaml is the file given by --dataset-yaml") from err


def _run(args: argparse.Namespace) -> None:
    storage_uri = storage_root(args.storage_uri or str(args.output_dir / WORK))
    maps = MapFolder("--output-dir", args.output_dir, is_flat=True, mosaic=args.mosaic, polygons=args.polygons)
    maps.clear()
    storage.clean_abandoned_daily(storage_uri)
    written = Outputs(directory=args.output_dir)
    written.clear(OUTPUT_FILES["average-probs"])
    with stage_scratch(args.scratch) as scratch:
        models = _open_models(args.model, args.trust_modules, scratch, storage_uri)
        config = dataset_config(args, models)
        source = open_inputs(args.inputs, args.labels, scratch)
        raw = with_scale(list_inputs(source, config, bool(args.labels)), models)

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
            for model in models:  # all of them before the first predicts for hours
                fit_input(model, dataset.manifest)
            maps.check(dataset, [SPLIT], parse_layers(args.layers))
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
            maps.write(labels, dataset, scratch)
            written.close()
            steps.next()
    tell(labels, args.output_dir, args.output_dir)
    _log.info("%s holds the work of this prediction; without it, the next one starts over", storage_uri)


def _check(args: argparse.Namespace) -> None:
    check_run_id("--run-id", args.run_id)
    batch_size(args.batch_size)
    if args.weights == "auto" or not re.fullmatch(parameters()["weights"].pattern, args.weights):
        problem = f"expected equal, or numbers of at least 0 and not all 0, one per model, found {args.weights!r}"
        raise ConfigError("--weights", problem, "average-probs fits weights to val" if args.weights == "auto" else "")
    if args.tile_px is not None and not 32 <= args.tile_px <= 8192:
        raise ConfigError("--tile-px", f"expected 32 to 8192, found {args.tile_px}")
    average_probs.check_arguments(_arguments(args))
    weights = parse_weights(args.weights)
    if not isinstance(weights, str) and len(weights) != len(args.model):
        raise ConfigError("--weights", f"expected {len(args.model)} weights, one per model, found {len(weights)}")
    output = args.output_dir.resolve()
    for uri in args.inputs:
        if not storage.is_s3(uri) and output.is_relative_to(Path(uri).resolve()):
            raise ConfigError("--output-dir", f"expected a folder outside of the images, found {output} in {uri}")
        if args.storage_uri and not storage.is_s3(uri) and not storage.is_s3(args.storage_uri):
            root = Path(args.storage_uri).resolve()
            if root.is_relative_to(Path(uri).resolve()):
                raise ConfigError("--storage-uri", f"expected a place outside of the images, found {root} in {uri}")


def _arguments(args: argparse.Namespace, **more: Any) -> argparse.Namespace:
    """The arguments of a stage: those of this verb, and what it leaves at the stage's default."""
    fixed: dict[str, Any] = {"dataset": "", "probs": [], "splits": SPLIT, "views": "mean", "worker": "1/1"}
    fixed |= {"temperature": "none", "seen_val": "equal"}
    return argparse.Namespace(**{**vars(args), **fixed, **more})


def _open_models(refs: Sequence[str], trusted: Sequence[str], scratch: Path, storage_uri: str) -> list[TrainedModel]:
    models = []
    for number, ref in enumerate(refs):
        folder = scratch / f"model-{number}"
        folder.mkdir()
        models.append(open_model(ref, folder, storage_uri))
        (folder / "model.pth").unlink(missing_ok=True)
        check_predicts(models[-1], trusted)
    first = models[0]
    by_checkpoint: dict[str, TrainedModel] = {}
    for model in models:
        twin = by_checkpoint.setdefault(model.checkpoint_sha256, model)
        if twin is not model:
            raise ContractError(model.uri, f"holds the same checkpoint as {twin.uri}", "give each model once")
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
