"""Fixtures that several tests of datasets share."""

from __future__ import annotations

import pytest

from landseg.dataset.staging import checking


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the tiles that are read and checked from here on."""
    ids: list[str] = []
    original = checking.check_tiles

    def noted(source, expected, tiles):
        ids.extend(f"{tile.split}/{tile.id}" for tile in tiles)
        return original(source, expected, tiles)

    monkeypatch.setattr(checking, "check_tiles", noted)
    return ids
