"""The settings of a config that are replaced or not used when it trains on a staged dataset; each is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mmcv

from landseg.contracts.dataset import ClassSchema
from landseg.models.build import IGNORED, ignored_indices, losses, num_classes, parts_with
from landseg.models.configs import STRAY
from landseg.training.input.mixing import train_datasets, training_steps
from landseg.training.selection import known_metrics, save_best
from landseg.training.settings.misspelt import misspelt_settings


def unused_settings(config: mmcv.Config, fitted: mmcv.Config, schema: ClassSchema) -> list[str]:
    """One sentence for each setting that does not have the effect it has in stock mmsegmentation.

    Args:
        config: as loaded.
        fitted: the same config, fitted to the dataset.
        schema: the dataset's classes and bands.
    """
    sentences = []
    *wrappers, dataset = train_datasets(config)
    kind = dataset.get("type", "CustomDataset")
    if kind != "CustomDataset":
        numbers = " and ".join(map(str, num_classes(config)))
        sentences.append(f"trains on the staged dataset's {schema.num_classes} classes, not on {kind}'s {numbers}")
    sentences += filter(None, map(_about_wrapper, wrappers))
    sentences += misspelt_settings(config)
    for name in config.get(STRAY, []):
        used = f"data.{name.partition('_')[0]}.pipeline"
        sentences.append(f"{name} is not used: {used} is another one, which --cfg-options {used}.<index>.<key>=… sets")
    alone, mixed = training_steps(config, ())
    sentences += _about_scale(alone + mixed)
    if any(step.get("reduce_zero_label") for step in alone + mixed):
        sentences.append("reduce_zero_label is not used: dataset.yaml defines the label values")
    if sum("class_weight" in loss for loss in losses(config.model)) > sum(
        "class_weight" in loss for loss in losses(fitted.model)
    ):
        sentences.append("class_weight is not used: it is for other classes (--class-weights computes this dataset's)")
    if indices := ignored_indices(config):
        sentences.append(
            f"ignore_index {', '.join(sorted(indices))} is not used: the dataset's ignored label is {IGNORED}"
        )
    sentences += _about_loss_names(config)
    thresholds = {
        part.get("threshold", 0.3) for part in parts_with(config.model, "out_channels") if part.out_channels == 1
    }
    if others := thresholds - {0.5, None}:
        sentences.append(
            f"threshold {', '.join(map(str, sorted(others)))} of a head with one channel is not used: the second class "
            "is where its probability is above 0.5"
        )
    evaluation = config.get("evaluation") or {}
    if (metric := save_best(config)) not in {None, *known_metrics(schema)}:
        sentences.append(f"evaluation.save_best {metric} is not computed: mIoU decides which weights are the best")
    metrics = evaluation.get("metric", "mIoU")
    if others := {metrics} - {"mIoU"} if isinstance(metrics, str) else {*metrics} - {"mIoU"}:
        sentences.append(f"evaluation.metric {', '.join(sorted(others))} is not used: IoU and accuracy are computed")
    if config.get("resume_from"):
        sentences.append("resume_from is not used: a run resumes on its own, --resume-from continues an earlier one")
    if any(mode != "train" for mode, _ in config.get("workflow") or []):
        sentences.append("workflow is not used: evaluation decides when val is scored")
    return sentences


def _about_loss_names(config: mmcv.Config) -> list[str]:
    """That a loss is computed and shown, but no part of what is minimised: mmseg adds up those whose names say so."""
    names = [loss.get("loss_name") for loss in losses(config.model) if isinstance(loss, dict)]
    return [
        f"loss_decode.loss_name {name} keeps the loss out of training: only losses named loss_... are minimised"
        for name in dict.fromkeys(names)
        if isinstance(name, str) and "loss" not in name
    ]


def _about_scale(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """That a mean is for images of 0-1, as torchvision has them."""
    means = [step.get("mean") for step in steps if step.get("type") == "Normalize"]
    return [
        f"Normalize's mean {[*mean]} is for images of 0-1, and here they are of 0-255: multiply mean and std by 255"
        for mean in means
        if isinstance(mean, list | tuple) and mean and all(isinstance(one, int | float) and 0 < one < 1 for one in mean)
    ]


def _about_wrapper(wrapper: Mapping[str, Any]) -> str:
    """That a wrapper around the training dataset would have an effect; "" for one that has none, or that is used."""
    kind = wrapper.get("type")
    if kind == "RepeatDataset" and (times := wrapper.get("times", 1)) != 1:
        return f"RepeatDataset's times={times} is not used: an epoch has each tile once (--epochs sets their number)"
    if kind == "ClassBalancedDataset":
        return f"{kind} is not used: --sampling rare-classes draws tiles of rare classes more often"
    return ""
