"""Predictors on this machine's device: of a trained model's checkpoint, or of a model that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
import torch

from landseg.contracts.choices import Precision
from landseg.contracts.dataset import ClassSchema
from landseg.contracts.probabilities import Tta
from landseg.models.build import load_model
from landseg.models.channels_last import lay_out_channels_last
from landseg.models.config_text import parse_config
from landseg.models.late_fusion import fuse_late
from landseg.models.precision import TORCH_DTYPES
from landseg.models.trained_model import TrainedModel
from landseg.prediction.device import default_device
from landseg.prediction.predictor import Predictor
from landseg.raw.processes import num_cpus


def load_predictor(
    trained: TrainedModel,
    schema: ClassSchema,
    checkpoint: Path,
    *,
    tta: Tta,
    precision: Precision,
    trusted: Sequence[str] = (),
) -> Predictor:
    """A trained model, ready to predict on this machine's device.

    Args:
        trained: what to load.
        schema: of the dataset, with the bands of the model; its classes must be the model's.
        checkpoint: the checkpoint as a local file.
        tta: the views to average.
        precision: fp32, bf16 or fp16.
        trusted: modules besides OpenMMLab's that may be imported for the types they register.
    """
    config = parse_config(trained.config, f"config of {trained.uri}")
    model = load_model(config, schema, checkpoint, trusted, name=trained.checkpoint_uri)
    return final_predictor(model, config, trained.mean, trained.std, tta=tta, precision=precision)


def final_predictor(
    model: torch.nn.Module,
    config: mmcv.Config,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    tta: Tta,
    precision: Precision,
) -> Predictor:
    """A :class:`Predictor` on this machine's device, of a model that is not trained any further and may be rebuilt."""
    # As in training: float32 products stay float32, not TF32, and a container's limit of CPUs holds.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(min(torch.get_num_threads(), num_cpus()))
    predictor = Predictor(model, config, mean, std, tta=tta, precision=precision, device=default_device())
    if precision != "fp32":
        fuse_late(model, TORCH_DTYPES[precision])
    if precision == "bf16" and predictor.device.type == "cpu":
        lay_out_channels_last(model, TORCH_DTYPES[precision])
    return predictor
