"""What a training run is: everything that its processes need to know, as one picklable value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv

from landseg.contracts.dataset import ClassSchema, DatasetManifest, Split
from landseg.contracts.errors import ConfigError
from landseg.models.build import losses
from landseg.training.transforms import IMAGENET_MEAN, IMAGENET_STD, RECIPE_STEPS, Pipeline, build_pipeline

CLASS_WEIGHTS = ("none", "inverse-frequency", "sqrt-inverse-frequency")


@dataclass(frozen=True)
class TrainJob:
    """A training run.

    Attributes:
        name: the model's name in the run.
        dataset: URI of the dataset manifest.
        cache: local folder for shards, shared by the processes.
        config: the resolved mmseg config as text.
        folder: URI of the stage's folder.
        scratch: local folder for temporary files.
        result: name of the file in `scratch` for what the manifest and the report need.
        splits: what is trained on.
        eval_split: what is scored, or None.
        pretrained: local file of weights to start from, or None.
        seed: of everything random.
        precision: fp32, fp16 or bf16.
        compile: whether to run the backbone as kernels of torch.compile, where that works.
        num_workers: processes per training process that read and transform tiles.
        keep: number of checkpoints to keep.
        checkpoint_interval: iterations between checkpoints, beside those at the end of epochs; 0 for none.
        deterministic: whether to ask GPUs for deterministic kernels.
    """

    name: str
    dataset: str
    cache: Path
    config: str
    folder: str
    scratch: Path
    result: str
    splits: tuple[Split, ...]
    eval_split: Split | None
    pretrained: Path | None
    seed: int
    precision: str
    compile: bool
    num_workers: int
    keep: int
    checkpoint_interval: int
    deterministic: bool


def set_parameters(config: mmcv.Config, *, epochs: int = 0, batch_per_gpu: int = 0, lr: float = 0.0) -> None:
    """Write the stage's parameters into the config; 0 leaves what the config says."""
    if epochs:
        if config.get("lr_config") and not _runs_by_epoch(config):
            config.lr_config.setdefault("by_epoch", False)  # what it meant where the config counted iterations
        config.runner = {"type": "EpochBasedRunner", "max_epochs": epochs}
        config.pop("total_iters", None)
        config.evaluation = {**(config.get("evaluation") or {}), "interval": 1}
        config.checkpoint_config = {**(config.get("checkpoint_config") or {}), "by_epoch": True, "interval": 1}
    if batch_per_gpu:
        data = config.setdefault("data", {})
        data["samples_per_gpu"] = batch_per_gpu
        (data.get("train_dataloader") or {}).pop("samples_per_gpu", None)
    if lr:
        config.setdefault("optimizer", {})["lr"] = lr


def tiles_per_batch(config: mmcv.Config) -> int:
    """Tiles per process and iteration: the config's `data.samples_per_gpu`, or `train_dataloader`'s own; else 8."""
    data = config.get("data") or {}
    found = {**data, **(data.get("train_dataloader") or {})}.get("samples_per_gpu", 8)
    if not isinstance(found, int) or found < 1:
        raise ConfigError("data.samples_per_gpu", f"expected at least 1, found {found!r}", "--batch-per-gpu N")
    return found


def _runs_by_epoch(config: mmcv.Config) -> bool:
    return "max_epochs" in (config.get("runner") or {})


def checkpoints_to_keep(config: mmcv.Config) -> int:
    """The config's `checkpoint_config.max_keep_ckpts` where it is a limit, else 2: a damaged one has one before it."""
    asked = (config.get("checkpoint_config") or {}).get("max_keep_ckpts", -1)
    return int(asked) if asked > 0 else 2


@dataclass(frozen=True)
class Length:
    """How long to train and how often to look up from it, in iterations unless `by_epoch`."""

    by_epoch: bool
    max_iters: int
    eval_start: int
    eval_interval: int
    checkpoint_interval: int

    @classmethod
    def of(cls, config: mmcv.Config, iters_per_epoch: int) -> Length:
        """What the config's `runner`, `evaluation` and `checkpoint_config` say.

        Raises:
            ConfigError: the config does not say how long to train.
        """
        runner = config.get("runner") or {"max_iters": config.get("total_iters")}
        by_epoch = "max_epochs" in runner
        count = runner.get("max_epochs") if by_epoch else runner.get("max_iters")
        if not isinstance(count, int) or count < 1:
            raise ConfigError("runner", f"expected max_epochs or max_iters, at least 1, found {dict(runner)}")
        unit = iters_per_epoch if by_epoch else 1
        evaluation, checkpoint = config.get("evaluation") or {}, config.get("checkpoint_config") or {}
        total = count * unit
        # As mmcv's CheckpointHook, which may count epochs where the runner counts iterations, and the reverse.
        checkpoint_unit = iters_per_epoch if checkpoint.get("by_epoch", by_epoch) else 1
        return cls(
            by_epoch,
            total,
            eval_start=(evaluation.get("start") or 0) * unit,
            eval_interval=cls._interval(evaluation, unit, unit if by_epoch else total, total),
            checkpoint_interval=cls._interval(
                checkpoint, checkpoint_unit, iters_per_epoch if by_epoch else total, total
            ),
        )

    @staticmethod
    def _interval(options: Any, unit: int, default: int, never: int) -> int:
        """Iterations; mmcv's way to say never is -1."""
        interval = options.get("interval")
        if interval is None:
            return default
        return int(interval) * unit if interval > 0 else never

    def evaluates_after(self, done: int) -> bool:
        """Whether a model is scored after `done` iterations: every interval from the start on, and at the end."""
        if done == self.max_iters:
            return True
        return done >= self.eval_start and done > 0 and (done - self.eval_start) % self.eval_interval == 0


def find_pipeline(config: mmcv.Config, manifest: DatasetManifest, splits: tuple[Split, ...]) -> Pipeline:
    """The training transforms of a config, with the normalisation that fits the dataset's bands."""
    mean, std = normalisation(config, manifest, splits)
    return build_pipeline(_train_steps(config), mean, std)


def normalisation(
    config: mmcv.Config, manifest: DatasetManifest, splits: tuple[Split, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per band on the 0-255 scale: the config's where it has as many, else the data's.

    The pretrained weights that RGB models start from expect ImageNet's; for other bands there is nothing to match.
    """
    bands = len(manifest.class_schema.bands)
    for step in _train_steps(config):
        if step["type"] == "Normalize" and len(step.get("mean", ())) == bands:
            return tuple(map(float, step["mean"])), tuple(map(float, step["std"]))
    if bands == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return _data_statistics(manifest, splits)


def _data_statistics(
    manifest: DatasetManifest, splits: tuple[Split, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    schema: ClassSchema = manifest.class_schema
    info = manifest.splits[splits[0]]
    mean, std = list(info.band_mean), list(info.band_std)
    if schema.scale is not None:
        for band, (low, high) in enumerate(zip(schema.scale.low, schema.scale.high, strict=True)):
            mean[band] = (mean[band] - low) * 255 / (high - low)
            std[band] = std[band] * 255 / (high - low)
    return tuple(mean), tuple(max(value, 1e-3) for value in std)  # a constant band has no spread to divide by


def train_dataset(config: mmcv.Config) -> Any:
    """A config's own training dataset, of which only the pipeline is used."""
    dataset = (config.get("data") or {}).get("train") or {}
    while True:  # wrappers: RepeatDataset, lists of datasets
        if isinstance(dataset, list | tuple):
            dataset = dataset[0]
        elif "dataset" in dataset:
            dataset = dataset["dataset"]
        else:
            return dataset


def _train_steps(config: mmcv.Config) -> list[dict[str, Any]]:
    return list(train_dataset(config).get("pipeline") or config.get("train_pipeline") or RECIPE_STEPS)


def set_class_weights(config: mmcv.Config, choice: str, manifest: DatasetManifest, splits: tuple[Split, ...]) -> None:
    """Write weights of the classes, from the numbers of their pixels, into every head's losses.

    A class of `n` pixels weighs proportionally to 1/n, or to its square root; the mean over pixels is 1, so that the
    size of the loss, and with it the learning rate, stays. A class without pixels weighs 1.

    Raises:
        ConfigError: the choice is unknown, or the config's own weights are not the dataset's.
    """
    found = list(losses(config.model))
    if choice == "none":
        _check_class_weights(found, manifest.class_schema.num_classes)
        return
    if choice not in CLASS_WEIGHTS:
        raise ConfigError("--class-weights", f"expected one of {', '.join(CLASS_WEIGHTS)}, found {choice!r}")
    counts = [sum(values) for values in zip(*(manifest.splits[split].class_pixels for split in splits), strict=True)]
    power = 1.0 if choice == "inverse-frequency" else 0.5
    raw = [count**-power if count else 0.0 for count in counts]
    scale = sum(counts) / sum(count * weight for count, weight in zip(counts, raw, strict=True))
    weights = [round(weight * scale, 6) if weight else 1.0 for weight in raw]
    for loss in found:
        loss["class_weight"] = weights


def _check_class_weights(found: list[Any], num_classes: int) -> None:
    """Refuse weights that a config has for the classes of another dataset."""
    for loss in found:
        weights = loss.get("class_weight")
        if isinstance(weights, list | tuple) and len(weights) != num_classes:
            raise ConfigError(
                "loss_decode.class_weight",
                f"expected {num_classes} weights, one per class, found {len(weights)}",
                "--class-weights inverse-frequency",
            )
