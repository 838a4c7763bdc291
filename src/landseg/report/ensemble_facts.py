"""The facts of the ensemble report, from what averaging found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from landseg import __version__, storage
from landseg.ensemble.fitted_weights import Fit
from landseg.ensemble.gallery import GalleryTile, Place, most_disagreeing, read_tile, worst_and_best
from landseg.ensemble.publishing import Outcome
from landseg.ensemble.shard_results import Ensemble
from landseg.ensemble.split_results import SplitResult
from landseg.ensemble.split_scores import Scored, Scoring, scored_split
from landseg.report.areas import ClassAreas
from landseg.report.costs import model_of, stage_costs
from landseg.report.ensemble import EnsembleReport, FewerViewsRow
from landseg.report.ground import pixel_area_m2
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
            _prediction(member.name, scoring.ensembles[(i,)] if scoring else None, member.weight)
            for i, member in enumerate(ensemble.members)
        ),
        ensemble=_prediction("ensemble", scoring.whole if scoring else None, None),
        num_tiles={split: info.num_tiles for split, info in ensemble.dataset.manifest.splits.items()},
        scored_split=scoring.split if scoring else None,
        confidence=CONFIDENCE,
        gain_interval=scoring.gain[1] if scoring and scoring.gain else None,
        adds=scoring.gains if scoring else {},
        subsets=tuple(
            _prediction("+".join(scored.models), scored, None)
            for scored in (scoring.ensembles.values() if scoring else ())
            if 1 < len(scored.models) < len(ensemble.members)
        ),
        views=tuple(_views(scoring)) if scoring else (),
        areas=tuple(_class_areas(ensemble, result, several) for result in outcome.results),
        disagreeing=gallery(disagreeing),
        worst=gallery(worst),
        best=gallery(best),
        costs=tuple(stage_costs(ensemble, seconds)),
        provenance=_provenance(ensemble),
        warnings=_warnings(ensemble.fit),
    )


def _prediction(name: str, scored: Scored | None, weight: float | None) -> Prediction:
    if scored is None:
        return Prediction(name, weight=weight)
    return Prediction(name, scored.scores, scored.confusion, scored.intervals, weight)


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
    truth = None if result.areas is None else tuple(result.areas.total[0, 1].tolist())
    return ClassAreas(
        split=result.split,
        predicted_px=tuple(result.pixels.tolist()),
        true_px=truth,
        pixel_area_m2=pixel_area_m2((tile.geo for tile in tiles), ensemble.dataset.manifest.crs),
        overlapping=any(tile.scene is not None for tile in tiles),
        disagreement_share=float(result.differing.mean()) if several else None,
    )


def _warnings(fitted: Fit | None) -> tuple[str, ...]:
    if fitted is None:
        return ()
    text = (
        f"The weights were fitted to {len(fitted.fitted_on)} val tiles; val scores are of the other "
        f"{fitted.reported_on}, where fitting changed the mIoU by {100 * (fitted.miou - fitted.miou_equal):+.2f} points"
    )
    if fitted.gain_interval is not None:
        text += " ({:+.2f} to {:+.2f})".format(*(100 * end for end in fitted.gain_interval))
    return (f"{text} against equal weights.",)


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
        if model := model_of(storage.parent(member.reader.uri), spec.model_sha256):
            sections[f"Training of {member.name}"] = {
                **{key: fact for key, fact in model.parameters.items() if key != "dataset_sha256"},
                **{f"{package} version": version for package, version in model.versions.items()},
                "config": model.config,
            }
    sections["Versions"] = {"landseg": __version__}
    return sections
