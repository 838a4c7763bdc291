"""What the three reports share: the page, its templates and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping

Interval = tuple[float, float]
"""Low and high end."""

Facts = Mapping[str, Mapping[str, object]]
"""Provenance: section title -> name -> value."""
