"""What would fail at the end, tried before the first batch: predicting tiles of every size, and exporting the model.

Exporting begins with a checkpoint that is written as the last one will be, and read back as a stranger's would be.
"""

from __future__ import annotations

import logging

import numpy as np

from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError, LandsegError
from landseg.dataset.reader import StagedDataset
from landseg.dataset.table import one_of_each_size
from landseg.models.build import load_model
from landseg.models.config_text import parse_config
from landseg.models.configs import modules_to_import
from landseg.models.failures import came_from_lack_of_memory
from landseg.models.foreign import reduce_for_prediction
from landseg.models.normalisation import find_normalize
from landseg.models.preprocessing import Image, Planes
from landseg.models.weights.checkpoint import read_checkpoint
from landseg.prediction.predictor import Predictor
from landseg.training.checkpoint.content import mmseg_checkpoint
from landseg.training.checkpoint.store import write_local
from landseg.training.input.transforms import seeded
from landseg.training.rehearsal.conditions import MAX_SIZES, memory_of_training, untouched
from landseg.training.session import Session

_log = logging.getLogger(__name__)

_MOST_DIFFERENCE = 0.05
"""Of probabilities: between kernels of 16 bits for other layouts of memory there is less."""


def rehearse_predicting(session: Session) -> None:
    """Predict a black tile of each size in the dataset, and export the first one's from a checkpoint.

    Training may crop tiles to a size that the network takes, which predicting does not do. The weights and the random
    numbers of training are not touched. A GPU has as little room as it will have after an epoch.

    Raises:
        ConfigError: the model cannot predict tiles of val or test, or cannot be loaded from its checkpoint; where tiles
            are of train, or where export needs a module of the user's own, it is a warning.
    """
    with untouched(session):
        with memory_of_training(session, gradients=True):
            predicted = _predict_sizes(session)
        try:
            reduce_for_prediction(session.config)
        except ConfigError as err:
            _log.warning("export-probs will refuse this model as it is: %s", err)
        if predicted is not None:
            _export(session, *predicted)


def _predict_sizes(session: Session) -> tuple[Image, Planes] | None:
    """Predict a tile of each size; the first that can be, with its probabilities."""
    predictor = session.predictor()
    bands = len(session.dataset.schema.bands)
    tried: set[tuple[int, int]] = set()
    predicted: tuple[Image, Planes] | None = None
    for split in sorted(session.dataset.manifest.splits, key=("val", "test", "train").index):
        for height, width in _sizes(session.dataset, split):
            if (height, width) in tried:
                continue
            tried.add((height, width))
            tile = np.zeros((height, width, bands), np.uint8)
            try:
                probs = predictor([predictor.prepare(tile)], (height, width))
                predicted = predicted or (tile, probs)
            except ConfigError as err:
                where, problem, hint = f"{split} tiles of {height}x{width} px", f"{err.where}: {err.problem}", err.hint
                if came_from_lack_of_memory(err):
                    problem = f"a single one does not fit into memory when it is predicted: {err.problem}"
                    hint = "predict it in windows (model.test_cfg: mode, crop_size, stride), or stage smaller tiles"
                if split != "train":
                    raise ConfigError(where, problem, hint) from err
                _log.warning("%s cannot be predicted: %s", where, problem)
    return predicted


def _export(session: Session, tile: Image, expected: Planes) -> None:
    """Write the model's checkpoint, load it as export does, and predict a tile with it.

    Args:
        session: what will be trained.
        tile: (H, W, B) uint8.
        expected: (1, C, H, W) float32: its probabilities by the model in training.

    Raises:
        ConfigError: what is written cannot be loaded.
    """
    job, path = session.job, session.job.scratch / "rehearsal.pth"
    with seeded(0, 0, 0):  # layers draw their first weights
        write_local(mmseg_checkpoint(session.model, session.model_input, job, 0, 1), path)
        try:
            config = parse_config(read_checkpoint(path)["meta"]["config"], "the checkpoint's config")
            model = load_model(config, session.dataset.schema, path, modules_to_import(config))
            mean, std = find_normalize(config, "the checkpoint's config")
            predictor = Predictor(
                model, config, mean, std, tta="none", precision=job.precision, device=session.team.device
            )
            found = predictor([predictor.prepare(tile)], tile.shape[:2])
        except LandsegError as err:
            raise ConfigError(
                "config", f"export could not load the model that this would train: {err.problem}", err.hint
            ) from err
        finally:
            path.unlink(missing_ok=True)
    difference = float(np.abs(found - expected).max())
    if not difference <= _MOST_DIFFERENCE:
        _log.warning(
            "read back from its checkpoint, the model predicts otherwise: probabilities differ by up to %.2g. Its "
            "prediction draws random numbers, or depends on more than its config and its weights",
            difference,
        )


def _sizes(dataset: StagedDataset, split: Split) -> list[tuple[int, int]]:
    """The distinct (height, width) of a split's tiles, or as many as are tried, largest first."""
    heights, widths = dataset.index(split).table.sizes
    tried = one_of_each_size(heights, widths, MAX_SIZES)
    return [(int(heights[position]), int(widths[position])) for position in tried]
