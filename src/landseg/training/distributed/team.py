"""The processes that train one model together, as each of them sees the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Team:
    """The processes that train one model together, seen from one of them.

    Attributes:
        rank: this process's number; 0 leads.
        size: number of processes.
        device: this process's device.
        objects: the group that passes Python objects, over the CPU; None for a single process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    objects: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process publishes and prints."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.objects)
        return values

    def from_leader(self, value: Any) -> Any:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.objects)
        return values[0]

    def barrier(self) -> None:
        """Wait until every process is here, for hours if need be: the leader may be waiting for storage."""
        self.gather(None)

    def share_buffers(self, model: torch.nn.Module) -> None:
        """Give every process the leader's buffers (BatchNorm's running statistics)."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)
