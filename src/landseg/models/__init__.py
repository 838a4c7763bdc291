"""Models: mmsegmentation configs, building, pretrained weights, conversion, precision, the test pipeline.

With `training` and `prediction`, the only rooms that import torch, mmcv and mmseg. Importing this package makes mmcv
importable (:mod:`landseg.models.compat`); it imports none of them itself.
"""

import os

from landseg.models import compat

# GNU OpenMP reads it when torch is first imported. By default, threads that wait for each other spin for milliseconds,
# which is ten times slower than sleeping as soon as anything else needs the cores: loader processes, a CPU limit.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
compat.install()
