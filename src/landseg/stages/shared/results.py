"""What an ensemble's label maps become for whoever asked for them: files in a folder, and a few lines to read."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landseg import storage
from landseg.cli.console import is_quiet
from landseg.contracts.dataset import Split
from landseg.contracts.labels import LabelsManifest, SceneMap
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.maps.files import extract_maps, list_maps
from landseg.ensemble.maps.geotiff import encode_names, label_style
from landseg.ensemble.maps.mosaic import write_mosaics
from landseg.ensemble.maps.tiles import map_name
from landseg.scoring.scores import METRICS

_log = logging.getLogger(__name__)


def write_maps(
    labels: storage.Loaded[LabelsManifest],
    dataset: StagedDataset,
    directory: Path,
    scratch: Path,
    *,
    flat: bool = False,
    mosaic: bool = False,
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
        mosaic: also write a VRT of all label maps with a georeference, or one for each CRS.

    Returns:
        The paths in the folder.
    """
    folder, document = storage.parent(labels.uri), labels.document
    archives = {"" if flat else str(split): (split, archive) for split, archive in document.splits.items()}
    label_folders = set(archives)
    for layer, by_split in document.layers.items():
        archives |= {(layer if flat else f"{split}-{layer}"): (split, found) for split, found in by_split.items()}
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
    list_maps(directory, [*paths, *sidecars])
    for name, (_, archive) in archives.items():
        path = scratch / "maps.tar"
        storage.get_file(storage.join(folder, archive.path), path, sha256=archive.sha256)
        with path.open("rb") as file:
            extract_maps(file, names[name], directory / name, skip=cut)
        path.unlink()
    for name, scene in scenes.items():
        storage.get_file(storage.join(folder, scene.path), directory / name, sha256=scene.sha256)
    style = label_style(document.class_schema, {})
    for name in sidecars:
        (directory / name).write_bytes(encode_names(style))
    if mosaic:
        written, num_left_out = write_mosaics(directory, [path for path in label_maps if path.endswith(".tif")], style)
        list_maps(directory, [*paths, *sidecars, *written])
        if left_out := num_left_out + sum(path.endswith(".png") for path in label_maps):
            _log.warning("%d maps are in no mosaic: they lie nowhere, or are turned", left_out)
    return paths


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
    summary = json.loads(storage.get_bytes(storage.join(folder, document.summary.path)))
    for line in score_lines(summary):
        print(line)
    archives = ", ".join(storage.join(folder, archive.path) for archive in document.splits.values())
    print(f"maps: {maps or archives}")
    print(f"report: {outputs / 'report.html' if outputs else storage.join(folder, document.report.path)}")
