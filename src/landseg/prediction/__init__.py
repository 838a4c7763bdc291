"""Prediction: a model's class probabilities of tiles, and their export.

With `models` and `training`, the only rooms that import torch.
"""

import landseg.models  # noqa: F401  # makes mmcv importable
