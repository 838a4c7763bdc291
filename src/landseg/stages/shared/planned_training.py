"""A training that may begin: the config with the dataset in it, what decides the result, and the job."""

from __future__ import annotations

import argparse
import itertools
import logging
from typing import TYPE_CHECKING, Any, cast

from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError, without_signatures
from landseg.contracts.parameters import split_list
from landseg.dataset.reader import StagedDataset
from landseg.raw.processes import num_cpus
from landseg.stages.shared.context import StageContext
from landseg.stages.shared.step_limits import limit

if TYPE_CHECKING:
    from landseg.training.job import TrainingJob
    from landseg.training.selection import Selection

_log = logging.getLogger(__name__)


def plan_training(
    args: argparse.Namespace, context: StageContext, dataset: StagedDataset, processes: int, on_gpu: bool, result: str
) -> tuple[TrainingJob, dict[str, Any], str | None]:
    """The job, what decides its result, and where its pretrained weights come from.

    Args:
        args: the verb's, checked.
        context: of the stage.
        dataset: what is trained on.
        processes: how many train together.
        on_gpu: whether they do on GPUs.
        result: the file that the job leaves for the report.

    Raises:
        ConfigError: the config, or what it is to be changed to, does not fit the dataset.
    """
    from landseg.models import precision
    from landseg.models.build import load_config, parse_options
    from landseg.models.config_text import config_text, masked_config
    from landseg.models.weights import pretrained
    from landseg.training import job
    from landseg.training.continuing import Earlier
    from landseg.training.input.shard_order import settle_order
    from landseg.training.settings.checked import check_settings

    splits = _splits(args.train_splits, dataset)
    loaded = load_config(args.config, parse_options(args.cfg_options))
    check_settings(loaded)
    earlier = Earlier.open(args.resume_from) if args.resume_from else None
    given = args.pretrained or loaded.get("load_from") or ""
    source = None if earlier else pretrained.find_source(loaded, given)
    source = source and pretrained.weights_of_model(source)
    config = _fitted(args, loaded, dataset, splits)
    selection, eval_split = _selection(args, config, dataset, splits)
    identity = {
        "name": args.name,
        "dataset_sha256": dataset.sha256,
        "config": config_text(masked_config(config)),
        "pretrained": source and without_signatures(source),
        "train_splits": list(splits),
        "seed": args.seed,
        "processes": processes,
        "device": "gpu" if on_gpu else "cpu",
        "precision": precision.resolve(args.precision, config, on_gpu),
        "compile": args.compile,
        "class_weights": args.class_weights,
        "sampling": args.sampling,
        "deterministic": args.deterministic,
        "selection": f"best {selection.metric}" if selection.ships_best else "last",
        "patience": selection.patience,
    }
    if args.tile_order != "auto":
        identity["tile_order"] = args.tile_order
    if earlier is not None:
        identity |= {"resume_from": earlier.uri, "resume_from_sha256": earlier.sha256}
        earlier.check_continuable(identity)
    folder = context.folder(args.name, identity)
    loaders = args.num_workers if args.num_workers is not None else min(4, max(1, num_cpus() // processes))
    plan = job.TrainingJob(
        name=args.name,
        dataset=dataset.uri,
        cache=dataset.cache,
        cache_bytes=dataset.cache_limit,
        decoded_bytes=args.decoded_bytes,
        config=identity["config"],
        folder=folder,
        scratch=context.scratch,
        result=result,
        splits=splits,
        eval_split=eval_split,
        pretrained=None,
        seed=args.seed,
        precision=identity["precision"],
        compile=args.compile,
        num_workers=loaders,
        keep=args.keep or job.checkpoints_to_keep(config),
        checkpoint_interval=args.checkpoint_interval,
        checkpoint_minutes=args.checkpoint_minutes,
        deterministic=args.deterministic,
        sampling=args.sampling,
        mixed_shards=settle_order(folder, dataset, args.tile_order, earlier.folder if earlier else None).mixed_shards,
        selection=selection,
        earlier=earlier,
        timeout_s=limit("train", "timeout_s"),
    )
    return plan, identity, source


def _fitted(args: argparse.Namespace, loaded: Any, dataset: StagedDataset, splits: tuple[Split, ...]) -> Any:
    """The config with the dataset and the options in it."""
    from landseg.models.build import fit_config
    from landseg.models.normalisation import set_normalisation
    from landseg.models.weights.pretrained import without_pretrained
    from landseg.training.input.config_pipeline import normalisation
    from landseg.training.job import set_parameters
    from landseg.training.settings.class_weights import set_class_weights
    from landseg.training.settings.unused import unused_settings

    schema = dataset.schema
    config = fit_config(without_pretrained(loaded), schema)
    for sentence in unused_settings(loaded, config, schema):
        _log.warning("%s: %s", args.config, sentence)
    set_parameters(config, epochs=args.epochs, batch_per_gpu=args.batch_per_gpu, lr=args.lr)
    tiles = itertools.chain.from_iterable(dataset.index(split) for split in splits)
    set_class_weights(config, args.class_weights, dataset.manifest, splits, tiles)
    set_normalisation(config, *normalisation(config, dataset, splits))
    return config


def _selection(
    args: argparse.Namespace, config: Any, dataset: StagedDataset, splits: tuple[Split, ...]
) -> tuple[Selection, Split | None]:
    """Which weights become the model, and the split that they are scored on: val, if it is held out from training."""
    from landseg.training.selection import Selection, save_best

    val = dataset.manifest.splits.get("val")
    scored = val is not None and val.labelled and "val" not in splits
    selection = Selection.of(args.selection, args.patience, config, dataset.schema, scored)
    if not scored and save_best(config) and args.selection == "auto":
        _log.warning(
            "%s: evaluation.save_best is not used: no labelled val tiles are held out from training", args.config
        )
    return selection, "val" if scored else None


def _splits(text: str, dataset: StagedDataset) -> tuple[Split, ...]:
    names = split_list(text)
    for name in names:
        info = dataset.manifest.splits.get(cast(Split, name))
        if info is None or not info.labelled:
            there = [key for key, value in dataset.manifest.splits.items() if value.labelled]
            if not there:
                problem = f"{name}: expected a labelled split, found a dataset without labels"
                raise ConfigError("--train-splits", problem, "stage the labels with the images")
            raise ConfigError("--train-splits", f"expected labelled splits ({', '.join(there)}), found {name!r}")
    return tuple(cast(Split, name) for name in names)
