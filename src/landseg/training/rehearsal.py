"""What would fail at the end, tried before the first batch: predicting tiles of every size, and exporting the model."""

from __future__ import annotations

import logging

import numpy as np

from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError
from landseg.dataset.reader import StagedDataset
from landseg.models.foreign import reduce_for_prediction
from landseg.training.session import Session

_log = logging.getLogger(__name__)

_MAX_SIZES = 12
"""Of a split; where it has more, these are spread over their areas."""


def rehearse(session: Session) -> None:
    """Predict a black tile of each size in the dataset, and look whether export will take the model.

    Training may crop tiles to a size that the network takes, which predicting does not do. The weights and the random
    numbers of training are not touched.

    Raises:
        ConfigError: the model cannot predict tiles of val or test; where they are of train, or where export needs a
            module of the user's own, it is a warning.
    """
    predictor = session.predictor()
    bands = len(session.dataset.schema.bands)
    tried: set[tuple[int, int]] = set()
    for split in sorted(session.dataset.manifest.splits, key=("val", "test", "train").index):
        for height, width in _sizes(session.dataset, split):
            if (height, width) in tried:
                continue
            tried.add((height, width))
            try:
                predictor([predictor.prepare(np.zeros((height, width, bands), np.uint8))], (height, width))
            except ConfigError as err:
                where, problem = f"{split} tiles of {height}x{width} px", f"{err.where}: {err.problem}"
                if split != "train":
                    raise ConfigError(where, problem, err.hint) from err
                _log.warning("%s cannot be predicted: %s", where, problem)
    try:
        reduce_for_prediction(session.config)
    except ConfigError as err:
        _log.warning("export-probs will refuse this model as it is: %s", err)


def _sizes(dataset: StagedDataset, split: Split) -> list[tuple[int, int]]:
    """The distinct (height, width) of a split's tiles, largest first."""
    sizes = np.unique(np.stack(dataset.index(split).table.sizes, 1), axis=0)
    sizes = sizes[np.argsort(-sizes.astype(np.int64).prod(1), kind="stable")]
    if len(sizes) > _MAX_SIZES:
        sizes = sizes[np.linspace(0, len(sizes) - 1, _MAX_SIZES).round().astype(int)]
    return [(int(height), int(width)) for height, width in sizes]
