"""Which scenes of an earlier dataset need not be cut again: their files are the same, and they would be cut alike."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable

from landseg.contracts.tile import Tile
from landseg.raw.config.rules import SceneRule
from landseg.raw.scenes import Window, cut


class KeptScenes:
    """Gathers the tiles of such scenes: a scene is taken over with all of its tiles, or cut again.

    Args:
        rule: how scenes are cut now.
        is_unchanged: whether the files of a scene, by its id, have not changed.
    """

    def __init__(self, rule: SceneRule, is_unchanged: Callable[[str], bool]) -> None:
        self._rule, self._is_unchanged = rule, is_unchanged
        self._found: dict[str, tuple[int, array[int]]] = {}  # by scene: how many tiles it has, and where they are
        self._windows = functools.lru_cache(2)(self._cut)

    def add(self, tile: Tile, position: int) -> bool:
        """Take a tile that was cut from a scene, and its position; returns whether it would be cut alike."""
        scene = tile.scene
        assert scene is not None, "only tiles cut from a scene"
        if scene.id not in self._found:
            is_kept = max(scene.height, scene.width) > self._rule.max_px and self._is_unchanged(scene.id)
            self._found[scene.id] = len(self._windows(scene.height, scene.width)) if is_kept else 0, array("I")
        num_tiles, positions = self._found[scene.id]
        window = Window(scene.y, scene.x, tile.height, tile.width)
        if not num_tiles or window not in self._windows(scene.height, scene.width):
            return False
        positions.append(position)
        return True

    def settle(self, adopted: bytearray) -> frozenset[str]:
        """The scenes all of whose tiles are adopted, by position; those of other scenes are adopted no more."""
        whole = set()
        for scene_id, (num_tiles, positions) in self._found.items():
            if num_tiles and num_tiles == sum(adopted[position] for position in positions):
                whole.add(scene_id)
            else:
                for position in positions:
                    adopted[position] = False
        return frozenset(whole)

    def _cut(self, height: int, width: int) -> frozenset[Window]:
        return frozenset(cut(height, width, self._rule.tile_px, self._rule.overlap_px))
