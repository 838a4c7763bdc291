"""Layers whose backward pass a GPU adds up in varying order, replaced by ones that repeat their results.

torch has a deterministic form of the models' other layers (`torch.use_deterministic_algorithms`).
"""

from __future__ import annotations

import torch


class RepeatablePool(torch.nn.Module):
    """`torch.nn.AdaptiveAvgPool2d` as two matrix products; equal up to rounding.

    Args:
        size: (height, width) of the output.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Average (N, C, H, W) over the cells of a grid."""
        rows, columns = (_means(old, new, values) for old, new in zip(values.shape[2:], self.size, strict=True))
        return rows @ values @ columns.T


def _means(old: int, new: int, like: torch.Tensor) -> torch.Tensor:
    """(new, old): the weights of `old` values in the means of `new` cells."""
    weights = torch.zeros(new, old)
    for cell in range(new):
        first, last = cell * old // new, -(-(cell + 1) * old // new)
        weights[cell, first:last] = 1 / (last - first)
    return weights.to(like)


def make_repeatable(model: torch.nn.Module) -> int:
    """Replace the model's adaptive pooling layers that average over parts of a map.

    Returns:
        How many.
    """
    count = 0
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is not torch.nn.AdaptiveAvgPool2d:
                continue
            size = child.output_size
            height, width = size if isinstance(size, tuple) else (size, size)
            if (height, width) != (1, 1) and height is not None and width is not None:  # (1, 1) is a plain mean
                setattr(module, name, RepeatablePool((height, width)))
                count += 1
    return count
