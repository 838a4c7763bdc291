"""Scenes at staging: decoded once into a local file, then cut into tiles by several processes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError, without_traceback
from landseg.contracts.names import MAX_TILE_ID_BYTES
from landseg.contracts.tile import ControlPoint, GeoKeys, SceneWindow
from landseg.raw.checked_tiles import Checked, CheckedTile, joined
from landseg.raw.checks import good_tile
from landseg.raw.expected import Expected
from landseg.raw.georeference.tags import Transform
from landseg.raw.images.decoded import DecodedImage
from landseg.raw.images.remarks import Remark
from landseg.raw.images.transcoding import spool_image
from landseg.raw.labels.checks import stage_label
from landseg.raw.labels.rule import UsedColours
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.processes import ProcessPool
from landseg.raw.scenes import Window, cut, shifted, tile_id
from landseg.raw.sources.source import Source
from landseg.raw.tiff.checks import MAX_DECODED_BYTES
from landseg.raw.tile_files import read_tiles

MAX_SCENE_BYTES = 1 << 34
"""The largest scene, decoded; it is on local disk while it is cut."""
MAX_SCENE_LABEL_BYTES = 1 << 31
"""The largest label of a scene, which is decoded in memory: 46,000 px square."""
_MAX_RATIO = 256
"""How many times larger than its file a decoded scene may be: a decompression bomb would fill the disk."""
_TILES_PER_JOB = 16


@dataclass(frozen=True)
class _Scene:
    """A decoded scene on local disk: `image`, `valid` and `label` are .npy files."""

    tile: SourceTile
    height: int
    width: int
    image: Path
    valid: Path | None
    label: Path | None
    transform: Transform | None
    crs: GeoKeys | None
    control_points: tuple[ControlPoint, ...]
    rpc: tuple[float, ...]
    num_no_value_px: int
    num_near_px: int
    num_overlap_px: int
    used_colours: UsedColours
    label_nodata: float | None
    sentinels: tuple[tuple[int, int], ...]
    remarks: tuple[Remark, ...]
    files: tuple[str, str | None]


def cut_scene(
    source: Source, expected: Expected, tile: SourceTile, processes: ProcessPool, scratch: Path
) -> Iterator[Checked]:
    """Check a scene and cut it; yields its tiles row by row, or its errors."""
    files = [scratch / f"scene-{name}.npy" for name in ("image", "valid", "label")]
    image, valid, label = files
    try:
        decode = functools.partial(_decode_scene, source, expected, image=image, valid=valid, label=label)
        ((outcome, extremes),) = processes.map(decode, [tile])
        if isinstance(outcome, CheckedTile):
            yield Checked([outcome], None)
            return
        about = CheckedTile(
            tile,
            num_no_value_px=outcome.num_no_value_px,
            num_near_px=outcome.num_near_px,
            num_overlap_px=outcome.num_overlap_px,
            used_colours=outcome.used_colours,
            label_nodata=outcome.label_nodata,
            remarks=outcome.remarks,
            scene_files=outcome.files,
        )
        yield Checked([about], None, extremes)
        rule = expected.config.scenes
        windows = cut(outcome.height, outcome.width, rule.tile_px, rule.overlap_px)
        jobs = [windows[start : start + _TILES_PER_JOB] for start in range(0, len(windows), _TILES_PER_JOB)]
        yield from processes.map(functools.partial(_cut_tiles, outcome, expected), jobs)
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _decode_scene(
    source: Source, expected: Expected, tile: SourceTile, *, image: Path, valid: Path, label: Path
) -> tuple[_Scene | CheckedTile, NDArray[np.float64] | None]:
    """Decode a scene into local files, with the extremes of wide values; a tile with errors where that fails."""
    errors: list[DataError] = []
    decoded: DecodedImage | None = None
    (content,) = read_tiles(source, [tile])
    if isinstance(content, DataError):
        return CheckedTile(tile, errors=(content,)), None
    files, label_files = content
    where = source.where(tile.image.path)
    size, longest = len(tile.id.encode()), MAX_TILE_ID_BYTES - len(tile_id("", Window(0, 0, 0, 0)))
    if size > longest:  # its tiles' ids are longer than its own
        problem = f"expected a scene's file name of at most {longest} bytes without its extension, found {size}"
        errors.append(DataError(where, problem, "rename it"))
    try:
        limit = min(MAX_SCENE_BYTES, max(MAX_DECODED_BYTES, _MAX_RATIO * files.size_bytes))
        decoded = spool_image(files, where, expected, limit, image, valid)
    except DataError as err:
        errors.append(without_traceback(err))
    staged, found = stage_label(source, expected, tile, label_files, decoded, MAX_SCENE_LABEL_BYTES)
    errors += found
    if staged is not None:
        np.save(label, staged.values.astype(np.uint8, copy=False))
    if errors or decoded is None:
        return CheckedTile(tile, errors=tuple(errors)), None
    scene = _Scene(
        tile,
        decoded.values.shape[0],
        decoded.values.shape[1],
        image,
        None if decoded.valid is None else valid,
        label if tile.label is not None else None,
        decoded.transform,
        decoded.crs,
        decoded.control_points,
        decoded.rpc,
        staged.num_no_data_px if staged else 0,
        staged.num_near_px if staged else 0,
        staged.num_overlap_px if staged else 0,
        staged.used_colours if staged else (),
        staged.nodata if staged else None,
        decoded.sentinels,
        decoded.remarks + (staged.remarks if staged else ()),
        expected.source_checksums(tile, content),
    )
    return scene, decoded.extremes


def _cut_tiles(scene: _Scene, expected: Expected, windows: Sequence[Window]) -> Checked:
    """Cut some windows out of a decoded scene."""
    stored = np.load(scene.image, mmap_mode="r")
    image = stored[:, 0].transpose(1, 2, 0, 3).reshape(scene.height, scene.width, -1)
    valid = None if scene.valid is None else np.load(scene.valid, mmap_mode="r")
    label = None if scene.label is None else np.load(scene.label, mmap_mode="r")
    return joined(_cut_tile(scene, expected, window, image, valid, label) for window in windows)


def _cut_tile(
    scene: _Scene,
    expected: Expected,
    window: Window,
    image: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    label: NDArray[Any] | None,
) -> Checked:
    part = np.s_[window.y : window.y + window.height, window.x : window.x + window.width]
    has_data = None if valid is None or valid[part].all() else np.ascontiguousarray(valid[part])
    transform = scene.transform and shifted(scene.transform, window.y, window.x)
    is_first = window.y == window.x == 0
    points, rpc = (scene.control_points, scene.rpc) if is_first else ((), ())  # once: there may be thousands
    return good_tile(
        SourceTile(scene.tile.split, tile_id(scene.tile.id, window), scene.tile.image, scene.tile.label),
        DecodedImage(
            np.ascontiguousarray(image[part]), has_data, transform, scene.crs, points, rpc, sentinels=scene.sentinels
        ),
        None if label is None else np.ascontiguousarray(label[part]),
        None,
        expected,
        scene=SceneWindow(id=scene.tile.id, y=window.y, x=window.x, height=scene.height, width=scene.width),
    )
