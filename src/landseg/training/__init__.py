"""Training: from a job to checkpoints, curves and a model.

With `models` and `prediction`, the only rooms that import torch.
"""

import landseg.models  # noqa: F401  # makes mmcv importable
