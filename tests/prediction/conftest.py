"""One thread per test process: test processes share the cores, and waiting for threads costs more than it gains."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
