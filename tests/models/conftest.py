"""One thread per test process: tests run side by side, where waiting for threads costs more than it gains."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
