"""The facts of the ensemble report, from what averaging found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from landseg import __version__, storage
from landseg.ensemble.averaging import Subset
from landseg.ensemble.fitted_weights import too_coarse
from landseg.ensemble.gallery import GalleryTile, Place, most_disagreeing, read_tile, worst_and_best
from landseg.ensemble.publishing import Outcome
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.shard_results import LABELS
from landseg.ensemble.split_results import SplitResult
from landseg.ensemble.split_scores import Scoring, scored_split
from landseg.ensemble.trained_models import model_of
from landseg.report.ensemble.areas import ClassAreas
from landseg.report.ensemble.content import EnsembleReport, FewerViewsRow, MapFile, SplitScores
from landseg.report.ensemble.costs import stage_costs
from landseg.report.ensemble.ground import pixel_area_m2
from landseg.report.page import sentence
from landseg.report.pictures import shrink
from landseg.report.scores import Prediction
from landseg.report.tile_pictures import TilePicture
from landseg.scoring.intervals import CONFIDENCE

_GALLERY_TILES = 6
"""Of each of the report's three galleries."""


def ensemble_report(outcome: Outcome, run_id: str, seconds: float, num_threads: int) -> EnsembleReport:
    """Everything that averaging found.

    Args:
        outcome: what averaging found.
        run_id: the run's name.
        seconds: what averaging has taken so far.
        num_threads: threads that read the tiles of the galleries.
    """
    ensemble, scoring = outcome.ensemble, scored_split(outcome.scorings)
    schema, several = ensemble.dataset.schema, len(ensemble.members) > 1
    disagreeing = most_disagreeing(outcome.results, _GALLERY_TILES) if several else []
    worst, best = worst_and_best(outcome.results, scoring, _GALLERY_TILES)

    def draw(place: Place) -> tuple[Place, TilePicture]:
        return place, _picture(read_tile(ensemble, place), several)

    pictures = dict(storage.parallel(draw, dict.fromkeys([*disagreeing, *worst, *best]), workers=num_threads))

    def gallery(places: Iterable[Place]) -> tuple[TilePicture, ...]:
        return tuple(pictures[place] for place in places)

    return EnsembleReport(
        run_id=run_id,
        dataset=ensemble.dataset.manifest.name,
        classes=schema.classes,
        palette=schema.palette,
        models=tuple(
            _prediction(member.name, scoring, (i,), member.weight) for i, member in enumerate(ensemble.members)
        ),
        ensemble=_prediction("ensemble", scoring, tuple(range(len(ensemble.members))), None),
        num_tiles={split: info.num_tiles for split, info in ensemble.dataset.manifest.splits.items()},
        scored_split=scoring.split if scoring else None,
        num_scored_tiles=scoring.num_tiles if scoring else 0,
        num_scored_scenes=scoring.num_scenes if scoring else 0,
        of_tiles=_of_tiles(scoring) if scoring else {},
        num_units=scoring.num_units if scoring else 0,
        seen_by=scoring.seen_by if scoring else (),
        confidence=CONFIDENCE,
        gain_interval=scoring.gain[1] if scoring and scoring.gain else None,
        adds=scoring.gains if scoring else {},
        subsets=tuple(
            _prediction("+".join(scored.models), scoring, subset, None)
            for subset, scored in (scoring.ensembles.items() if scoring else ())
            if 1 < len(subset) < len(ensemble.members)
        ),
        views=tuple(_views(scoring)) if scoring else (),
        areas=tuple(_class_areas(ensemble, result, several) for result in outcome.results),
        other_splits=tuple(_split_scores(ensemble, other) for other in outcome.scorings if other is not scoring),
        maps=tuple(_map_files(outcome)),
        disagreeing=gallery(disagreeing),
        worst=gallery(worst),
        best=gallery(best),
        costs=tuple(stage_costs(ensemble, seconds)),
        provenance=_provenance(ensemble),
        warnings=_warnings(ensemble, scoring),
    )


def _prediction(name: str, scoring: Scoring | None, subset: Subset, weight: float | None) -> Prediction:
    if scoring is None:
        return Prediction(name, weight=weight)
    scored = scoring.ensembles[subset]
    note = f"trained on {scoring.split}" if set(scored.models) & set(scoring.seen_by) else ""
    return Prediction(
        name=name,
        scores=scored.scores,
        confusion=scored.confusion,
        intervals=scored.intervals,
        weight=weight,
        note=note,
        reliability=scored.reliability,
        boundary=scored.boundary,
    )


def _views(scoring: Scoring) -> Iterator[FewerViewsRow]:
    for tta, found in scoring.views.items():
        for fewer in found:
            # The last is the ensemble, which of a single model is that model.
            name = "ensemble" if fewer is found[-1] else fewer.scored.models[0]
            if len(found) > 2 or name != "ensemble":
                yield FewerViewsRow(tta, name, fewer.scored.scores["mIoU"], *fewer.gain)


def _picture(tile: GalleryTile, several: bool) -> TilePicture:
    return TilePicture(
        tile_id=tile.tile_id,
        split=tile.split,
        image=shrink(tile.image),
        truth=None if tile.truth is None else shrink(tile.truth),
        models=tuple(shrink(labels) for labels in tile.models),
        ensemble=shrink(tile.ensemble),
        disagreement=shrink(tile.disagreement) if several else None,
        disagreement_share=tile.differing if several else None,
        mIoU=tile.miou,
    )


def _class_areas(ensemble: Ensemble, result: SplitResult, several: bool) -> ClassAreas:
    tiles = ensemble.tiles[result.split]
    areas = result.areas
    truth = None if areas is None or not areas.num_tiles else tuple(areas.total[0, 1].tolist())
    return ClassAreas(
        split=result.split,
        predicted_px=tuple(result.pixels.tolist()),
        true_px=truth,
        pixel_area_m2=pixel_area_m2((tile.geo for tile in tiles), ensemble.dataset.manifest.crs),
        disagreement_share=float(result.differing.mean()) if several else None,
        compared_px=None if truth is None or areas is None else tuple(areas.confusions[-1].sum(axis=0).tolist()),
    )


def _split_scores(ensemble: Ensemble, scoring: Scoring) -> SplitScores:
    """The scores of a split other than the one that stands for the run."""
    models = [_prediction(member.name, scoring, (i,), None) for i, member in enumerate(ensemble.members)]
    whole = _prediction("ensemble", scoring, tuple(range(len(ensemble.members))), None)
    return SplitScores(
        split=scoring.split,
        num_tiles=scoring.num_tiles,
        num_scenes=scoring.num_scenes,
        predictions=tuple(models if len(models) == 1 else [*models, whole]),
        of_tiles=_of_tiles(scoring),
    )


def _of_tiles(scoring: Scoring) -> dict[str, float]:
    """The mIoU of every tile on its own; a single model is the ensemble."""
    found = {name: scores["mIoU"] for name, scores in scoring.of_tiles.items()}
    return {name: value for name, value in found.items() if name != "ensemble" or len(found) > 2}


def _map_files(outcome: Outcome) -> Iterator[MapFile]:
    """The label maps and layers, by their paths in the folder of the report."""
    for kind, by_split in outcome.archives.items():
        for split, found in by_split.items():
            yield MapFile(found[0].path, kind, split, sum(archive.num_tiles for archive in found), len(found))
    for split, scenes in outcome.scenes.items():
        for scene in scenes:
            yield MapFile(scene.labels.path, LABELS, split, 1)
            for layer, one in scene.layers.items():
                yield MapFile(one.path, layer, split, 1)


def _warnings(ensemble: Ensemble, scoring: Scoring | None) -> tuple[str, ...]:
    warnings = []
    if scoring is not None and scoring.seen_by:
        names = sentence(scoring.seen_by)
        warnings.append(
            f"{names} {'was' if len(scoring.seen_by) == 1 else 'were'} trained on {scoring.split}: scores on it of "
            f"{names}, and of averages with {names}, say nothing about other tiles, and models are not compared."
        )
    fitted = ensemble.fit
    if fitted is not None:
        text = (
            f"The weights were fitted to {len(fitted.fitted_on)} val tiles; val scores are of the other "
            f"{fitted.reported_on}, where fitting changed the mIoU by "
            f"{100 * (fitted.miou - fitted.miou_equal):+.2f} points"
        )
        if fitted.gain_interval is not None:
            text += " ({:+.2f} to {:+.2f})".format(*(100 * end for end in fitted.gain_interval))
        warnings.append(f"{text} against equal weights.")
        if any(t != 1 for t in fitted.temperatures) and (coarse := too_coarse(ensemble.members)):
            warnings.append(
                f"Temperatures are rough: of {sentence(coarse)}, small probabilities were stored as 0. Export with "
                "--dtype uint12 or finer to fit them better."
            )
    return tuple(warnings)


def _provenance(ensemble: Ensemble) -> dict[str, dict[str, object]]:
    manifest = ensemble.dataset.manifest
    sections: dict[str, dict[str, object]] = {
        "Dataset": {"name": manifest.name, "id": manifest.dataset_id, "manifest sha256": ensemble.dataset.sha256}
    }
    for member in ensemble.members:
        spec = member.reader.spec
        sections[f"Model {member.name}"] = {
            "weight": member.weight,
            "temperature": member.temperature,
            "checkpoint sha256": spec.checkpoint_sha256,
            "model manifest sha256": spec.model_sha256,
            "probabilities sha256": member.reader.sha256,
            "stored as": spec.dtype,
            "views": spec.tta,
            "precision": spec.precision,
        }
        if model := model_of(member):
            sections[f"Training of {member.name}"] = {
                **{key: fact for key, fact in model.parameters.items() if key != "dataset_sha256"},
                **{f"{package} version": version for package, version in model.versions.items()},
                "config": model.config,
            }
    sections["Versions"] = {"landseg": __version__}
    return sections
