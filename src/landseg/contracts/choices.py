"""Choices that code refers to. Those of a parameter are written in parameters.toml; a type needs them spelled out."""

from __future__ import annotations

from typing import Literal

from landseg.contracts.parameters import parameters

Precision = Literal["fp32", "bf16", "fp16"]
"""The floating-point type that a network computes in."""
CLASS_WEIGHTS = parameters()["class_weights"].choices
"""How classes may be weighted in the losses of training."""
