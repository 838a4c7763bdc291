"""Everything that needs torch, mmcv and mmsegmentation: datasets, transforms, training, inference, weights."""

import os

# GNU OpenMP, read when torch is first imported. Threads that wait for each other spin for milliseconds by default,
# which is ten times slower than sleeping as soon as anything else wants the cores: data workers, a CPU limit.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
