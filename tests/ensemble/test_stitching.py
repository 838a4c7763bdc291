"""Tiles of a scene become one label map again: blending where they overlap, and the GeoTIFF that holds it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.contracts.errors import ContractError
from landseg.contracts.tile import Geo, SceneWindow, Tile
from landseg.ensemble.maps.stitching import Scene, blend_weights, join, scenes_of, stitch
from landseg.raw.georeference.tags import Georeference, read_georeference
from landseg.raw.scenes import cut, shifted, tile_id


def tiles_of(height: int, width: int, tile_px: int, overlap_px: int, scene: str = "s") -> list[Tile]:
    return [
        Tile(
            id=tile_id(scene, window),
            shard=0,
            image=(0, 1),
            label=None,
            height=window.height,
            width=window.width,
            image_sha256="0" * 64,
            label_sha256=None,
            scene=SceneWindow(id=scene, y=window.y, x=window.x, height=height, width=width),
            geo=Geo(crs=0, transform=shifted((0.5, 0.0, 100.0, 0.0, -0.5, 900.0), window.y, window.x)),
        )
        for window in cut(height, width, tile_px, overlap_px)
    ]


def stitched(scene: Scene, probs: np.ndarray) -> np.ndarray:
    def of(tile: Tile) -> np.ndarray:
        window = tile.scene
        return probs[:, window.y : window.y + tile.height, window.x : window.x + tile.width]

    return np.concatenate(list(stitch(scene, of)))


sizes = st.integers(1, 70)


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, st.integers(8, 32), st.integers(0, 4))
def test_windows_cover_the_scene_and_blend_without_seams(height, width, tile_px, overlap_px):
    tiles = tiles_of(height, width, tile_px, overlap_px)
    assert [tile.id for tile in tiles] == sorted(tile.id for tile in tiles)
    (scene,) = scenes_of(reversed(tiles))
    assert scene.tiles == tuple(tiles)
    assert scene.location.transform == (0.5, 0.0, 100.0, 0.0, -0.5, 900.0)
    covered = np.zeros((height, width))
    for tile in tiles:
        weights = blend_weights(scene, tile)
        assert weights.shape == (tile.height, tile.width)
        assert ((weights > 0) & (weights <= 1)).all()
        covered[tile.scene.y :, tile.scene.x :][: tile.height, : tile.width] += weights
    assert (covered > 0).all()
    probs = np.random.default_rng(0).dirichlet(np.ones(4), (height, width)).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(stitched(scene, probs), probs.argmax(0))


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, st.integers(8, 32), st.integers(0, 4))
def test_labels_that_were_cut_are_joined_again(height, width, tile_px, overlap_px):
    (scene,) = scenes_of(tiles_of(height, width, tile_px, overlap_px))
    labels = np.random.default_rng(0).integers(0, 9, (height, width)).astype(np.uint8)

    def of(tile: Tile) -> np.ndarray:
        return labels[tile.scene.y :, tile.scene.x :][: tile.height, : tile.width]

    np.testing.assert_array_equal(np.concatenate(list(join(scene, of))), labels)
    blended = stitch(scene, lambda tile: np.eye(9, dtype=np.float32)[of(tile)].transpose(2, 0, 1))
    for joined, stitched_rows in zip(join(scene, of), blended, strict=True):
        np.testing.assert_array_equal(joined, stitched_rows)


def test_the_blend_moves_from_one_tile_to_the_next():
    tiles = tiles_of(10, 18, 10, 2)
    scene = scenes_of(tiles)[0]
    left, right = (blend_weights(scene, tile)[0] for tile in tiles)
    np.testing.assert_allclose(left[-2:], [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(right[:2], [1 / 3, 2 / 3], rtol=1e-6)
    assert (left[:-2] == 1).all()


def test_scenes_are_told_apart_and_plain_tiles_left_out():
    plain = tiles_of(8, 8, 8, 0)[0].model_copy(update={"scene": None})
    mixed = [plain, *tiles_of(20, 20, 8, 2, "b"), *tiles_of(9, 20, 8, 2, "a")]
    assert [(scene.id, scene.height, len(scene.tiles)) for scene in scenes_of(mixed)] == [("a", 9, 6), ("b", 20, 9)]


def test_a_missing_tile_is_refused():
    tiles = tiles_of(20, 30, 10, 2)
    for missing in (0, 3, len(tiles) - 1):
        rest = tiles[:missing] + tiles[missing + 1 :]
        with pytest.raises(ContractError, match="do not cover"):
            stitched(scenes_of(rest)[0], np.ones((2, 20, 30), np.float32))
    with pytest.raises(ContractError, match="different sizes"):
        scenes_of([tiles[0], tiles_of(21, 30, 10, 2)[1]])


def test_no_georeference():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((4, 4), np.uint8), metadata=None)
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as tiff:
        assert read_georeference(tiff.pages.first) == Georeference()
