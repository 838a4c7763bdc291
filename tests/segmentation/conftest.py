"""One thread per test process: tests run side by side, and waiting for each other's threads costs more than it gains."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
