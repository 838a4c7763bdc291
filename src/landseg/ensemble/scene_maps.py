"""Label maps of scenes: the probabilities of a scene's overlapping tiles, blended, and the argmax of the blend."""

from __future__ import annotations

import numpy as np

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split, Tile
from landseg.contracts.labels import SceneLabels
from landseg.ensemble.geotiff_maps import write_labels
from landseg.ensemble.shard_results import Ensemble
from landseg.ensemble.stitching import Scene, scenes_of, stitch
from landseg.probabilities.codec import Probs
from landseg.storage.records import read_record, write_record


def write_scenes(ensemble: Ensemble) -> dict[Split, tuple[SceneLabels, ...]]:
    """Write the label maps of all scenes, apart from those that an earlier, killed run finished.

    Scenes take turns: memory holds a row of tiles across a whole scene.
    """
    written = {}
    for split, tiles in ensemble.tiles.items():
        by_scene: dict[str, list[str]] = {}
        for tile in tiles:
            if tile.scene:
                by_scene.setdefault(tile.scene.id, []).append(tile.id)
        if by_scene:
            with Progress(f"stitching {split}", len(by_scene), "scenes") as progress:
                maps = []
                for _, ids in sorted(by_scene.items()):
                    (scene,) = scenes_of(map(tiles.find, ids))
                    maps.append(_finished(ensemble, split, scene) or _write(ensemble, split, scene))
                    progress.advance()
            written[split] = tuple(maps)
    return written


def _finished(ensemble: Ensemble, split: Split, scene: Scene) -> SceneLabels | None:
    labels = read_record(SceneLabels, storage.join(ensemble.folder, _record(split, scene)))
    if labels is None:
        return None
    found = storage.stat(storage.join(ensemble.folder, labels.path))
    return labels if found is not None and found.size_bytes == labels.size_bytes else None


def _write(ensemble: Ensemble, split: Split, scene: Scene) -> SceneLabels:
    def probs(tile: Tile) -> Probs:
        stored = [member.reader.read_tile(split, tile.id) for member in ensemble.members]
        return ensemble.average.mean(ensemble.average.prepare(stored))

    schema = ensemble.dataset.schema
    offset = np.uint8(schema.label_offset)
    path = ensemble.scratch / "scene.tif"
    write_labels(
        path,
        (rows + offset for rows in stitch(scene, probs)),
        (scene.height, scene.width),
        ((0, 0, 0),) * schema.label_offset + schema.palette,
        scene.geo,
        ensemble.dataset.manifest.crs,
    )
    labels = SceneLabels(
        path=f"scenes/{split}/{scene.id}.tif",
        size_bytes=path.stat().st_size,
        sha256=storage.file_sha256(path),
        scene=scene.id,
    )
    storage.put_file(storage.join(ensemble.folder, labels.path), path)
    path.unlink()
    write_record(storage.join(ensemble.folder, _record(split, scene)), labels)
    return labels


def _record(split: Split, scene: Scene) -> str:
    return f"parts/scene-{split}-{scene.id}.json"
