"""What of a config is replaced or not used when it trains on a staged dataset: said, because nothing goes silently."""

from __future__ import annotations

import mmcv

from landseg.contracts.dataset import ClassSchema
from landseg.models.build import losses, num_classes
from landseg.training.job import train_dataset


def remarks(config: mmcv.Config, fitted: mmcv.Config, schema: ClassSchema) -> list[str]:
    """One sentence for each part of a config that does not do what it does in stock mmsegmentation.

    Args:
        config: as loaded.
        fitted: the same, fitted to the dataset.
        schema: of the dataset.
    """
    said = []
    dataset = train_dataset(config)
    kind = dataset.get("type", "CustomDataset")
    if kind != "CustomDataset":
        numbers = " and ".join(map(str, num_classes(config)))
        said.append(f"trains on the staged dataset's {schema.num_classes} classes, not on {kind}'s {numbers}")
    if any(step.get("reduce_zero_label") for step in dataset.get("pipeline") or []):
        said.append("reduce_zero_label is not used: label values are what dataset.yaml says")
    if sum("class_weight" in loss for loss in losses(config.model)) > sum(
        "class_weight" in loss for loss in losses(fitted.model)
    ):
        said.append("class_weight is left out: it is of other classes (--class-weights makes some of this dataset's)")
    evaluation = config.get("evaluation") or {}
    if evaluation.get("save_best"):
        said.append("evaluation.save_best is not used: the model is that of the last iteration")
    metrics = evaluation.get("metric", "mIoU")
    if others := {metrics} - {"mIoU"} if isinstance(metrics, str) else {*metrics} - {"mIoU"}:
        said.append(f"evaluation.metric {', '.join(sorted(others))} is not used: IoU and accuracy are computed")
    if config.get("resume_from"):
        said.append("resume_from is not used: a run goes on from its own checkpoints (load_from starts from others)")
    if any(mode != "train" for mode, _ in config.get("workflow") or []):
        said.append("workflow is not used: val is scored as evaluation says")
    return said
