"""Scores on val: every tile once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from landseg.data.dataset import StagedDataset
from landseg.data.manifest import Split
from landseg.ensemble.metrics import confusion_matrix, scores
from landseg.segmentation.distributed import Team
from landseg.segmentation.transforms import Pipeline


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    staged: StagedDataset,
    split: Split,
    pipeline: Pipeline,
    team: Team,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Score the model on a split, without test-time augmentation.

    Process `rank` takes every `size`-th tile, one at a time, so that neither their number nor the company a tile is in
    changes its prediction.

    Args:
        model: the segmentor; left in training mode.
        staged: the dataset.
        split: a labelled split.
        pipeline: the training transforms; normalisation is theirs.
        team: the processes that share the work.
        stopping: asked between tiles; True leaves the work unfinished.

    Returns:
        `mIoU`, `mAcc`, `aAcc` and `IoU.<class>`; None where a process was asked to stop.
    """
    schema = staged.manifest.class_schema
    total = np.zeros((schema.num_classes, schema.num_classes), np.int64)
    stopped = False
    team.share_buffers(model)
    model.eval()
    for tile in staged.tiles(split)[team.rank :: team.size]:
        if stopped := stopping():
            break
        image = staged.read_image(split, tile)
        planes = pipeline.normalise(image)
        shape = image.shape
        meta = {"ori_shape": shape, "img_shape": shape, "pad_shape": shape, "flip": False, "scale_factor": 1.0}
        logits = model.inference(torch.from_numpy(planes)[None].to(team.device), [meta], True)  # type: ignore[operator]
        labels = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
        total += confusion_matrix(staged.read_label(split, tile), labels, schema.num_classes, schema.ignore_index)
    model.train()
    flat = torch.from_numpy(np.append(total.ravel(), int(stopped))).to(team.device)
    counts = team.sum(flat).cpu().numpy()
    if counts[-1]:
        return None
    return scores(counts[:-1].reshape(total.shape), schema.classes)
