"""What an ensemble's label maps become for whoever asked for them: files in a folder, and a few lines to read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from landseg import storage
from landseg.cli.console import is_quiet
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ContractError
from landseg.contracts.labels import LabelsManifest, SceneMap, parse_summary
from landseg.contracts.tile import Tile
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.maps.files import check_unclaimed, extract_maps, list_maps
from landseg.ensemble.maps.geotiff import MapStyle, encode_names, label_style
from landseg.ensemble.maps.mosaic import MOSAIC_FILES, write_mosaic
from landseg.ensemble.maps.polygons import POLYGONS, write_polygons
from landseg.ensemble.maps.tiles import map_name
from landseg.scoring.scores import METRICS

_SHIFT_PX = 0.01
"""Less is rounding."""

_log = logging.getLogger(__name__)


def write_maps(
    labels: storage.Loaded[LabelsManifest],
    dataset: StagedDataset,
    directory: Path,
    scratch: Path,
    *,
    flat: bool = False,
    mosaic: bool = False,
    polygons: bool = False,
) -> list[str]:
    """Write the maps to a folder.

    Args:
        labels: the manifest of the maps.
        dataset: what they are of.
        directory: the folder. Label maps of tiles go to `<split>/`, layers to `<split>-<layer>/`, label maps of scenes
            to `<split>-scenes/`, their layers to `<split>-scenes-<layer>/`. Next to a GeoTIFF of labels lies its
            `.aux.xml` with the class names.
        scratch: for archives.
        flat: for a dataset of one split: label maps of tiles and of scenes go to the folder itself, layers to
            `<layer>/`; tiles that were cut from a scene have no map but the scene's.
        mosaic: also write all label maps with a transform as one, :func:`write_mosaic`.
        polygons: also write them as polygons, :func:`write_polygons`.

    Returns:
        The paths in the folder.

    Raises:
        ConfigError: the folder holds another file where a map goes.
        StorageError: a map cannot be written.
    """
    folder, document = storage.parent(labels.uri), labels.document
    archives = {"" if flat else str(split): (split, document.archives(split)) for split in document.splits}
    label_folders = set(archives)
    for layer, by_split in document.layers.items():
        archives |= {
            (layer if flat else f"{split}-{layer}"): (split, document.archives(split, layer)) for split in by_split
        }
    names = {name: [map_name(tile) for tile in dataset.index(split)] for name, (split, _) in archives.items()}
    cut = {tile.id for _, (split, _) in archives.items() for tile in dataset.index(split) if flat and tile.scene}
    scenes = _scene_maps(document.scenes, "" if flat else "{}-scenes/")
    wanted = {
        f"{name}/{one}".lstrip("/"): name in label_folders
        for name, ones in names.items()
        for one in ones
        if one.rpartition(".")[0] not in cut
    }
    label_maps = [path for path, is_label_map in wanted.items() if is_label_map] + list(scenes)
    sidecars = [f"{path}.aux.xml" for path in label_maps if path.endswith(".tif")]
    for layer, others in document.scene_layers.items():
        scenes |= _scene_maps(others, f"{layer}/" if flat else f"{{}}-scenes-{layer}/")
    paths = [*wanted, *scenes]
    every = [*paths, *sidecars, *(MOSAIC_FILES if mosaic else ()), *([POLYGONS] if polygons else [])]
    check_unclaimed(directory, every)
    list_maps(directory, every)
    for name, (_, parts) in archives.items():
        left = set(names[name])
        for archive in parts:
            path, uri = scratch / "maps.tar", storage.join(folder, archive.path)
            storage.get_file(uri, path, sha256=archive.sha256)
            with path.open("rb") as file:
                left -= extract_maps(file, uri, left, directory / name, skip=cut)
            path.unlink()
        if left:
            problem = f"expected a map of every tile, found none of {len(left)}, {min(left)} among them"
            raise ContractError(labels.uri, problem, "run the stage again")
    for name, scene in scenes.items():
        storage.get_file(storage.join(folder, scene.path), directory / name, sha256=scene.sha256)
    style = label_style(document.class_schema, {})
    for name in sidecars:
        (directory / name).write_bytes(encode_names(style))
    _put_together(directory, label_maps, style, mosaic=mosaic, polygons=polygons)
    return paths


def flat_maps(tiles: Iterable[Tile]) -> Iterator[str]:
    """Where the label maps of some tiles go in a flat folder; the scene's as often as it has tiles."""
    return (f"{tile.scene.id}.tif" if tile.scene else map_name(tile) for tile in tiles)


def _put_together(directory: Path, label_maps: Sequence[str], style: MapStyle, *, mosaic: bool, polygons: bool) -> None:
    """Write mosaic and polygons of label maps, which lie in the folder."""
    with_place = [path for path in label_maps if path.endswith(".tif")]
    num_without = len(label_maps) - len(with_place)
    if mosaic:
        num_left_out, shift_px = write_mosaic(directory, with_place, style)
        if shift_px > _SHIFT_PX:
            _log.warning("the mosaic moves maps by up to %.2f px: their grids are not one", shift_px)
        if num_left_out + num_without:
            _log.warning("%d maps are not in the mosaic: no transform, or turned", num_left_out + num_without)
    if polygons and (num_left_out := num_without + write_polygons(directory, with_place, style)):
        _log.warning("%d maps are not among the polygons: no transform", num_left_out)


def _scene_maps(by_split: Mapping[Split, Sequence[SceneMap]], folder: str) -> dict[str, SceneMap]:
    """Maps of scenes by path; `folder` names the folder of a split."""
    return {f"{folder.format(split)}{one.scene}.tif": one for split, maps in by_split.items() for one in maps}


def score_lines(summary: dict[str, Any]) -> list[str]:
    """The scores of each model and of the ensemble as a small table; nothing where nothing is labelled.

    Args:
        summary: `summary.json`.
    """
    split = summary["scored_split"]
    columns = {**summary["models"], "ensemble": summary["ensemble"]}
    if not split or not all(columns.values()):
        return []
    width = max(len(name) for name in (*columns, split))
    rows = [f"{split:{width}}" + "".join(f"{metric:>9}" for metric in METRICS)]
    for name, scores in columns.items():
        rows.append(f"{name:{width}}" + "".join(f"{100 * scores[metric]:9.2f}" for metric in METRICS))
    return rows


def tell(labels: storage.Loaded[LabelsManifest], maps: Path | None, outputs: Path | None) -> None:
    """Print scores, and where report and maps lie; nothing with `--quiet`.

    Args:
        labels: the manifest of the maps.
        maps: the local folder that they were written to, if any.
        outputs: the local folder that the report was written to, if any.
    """
    if is_quiet():
        return
    folder, document = storage.parent(labels.uri), labels.document
    where = storage.join(folder, document.summary.path)
    summary = parse_summary(storage.get_bytes(where, sha256=document.summary.sha256), where)
    for line in score_lines(summary):
        print(line)
    archives = [archive.path for split in document.splits for archive in document.archives(split)]
    held = storage.parent(archives[0]) if len(archives) > 1 else archives[0]
    print(f"maps: {maps or storage.join(folder, held)}")
    print(f"report: {outputs / 'report.html' if outputs else storage.join(folder, document.report.path)}")
