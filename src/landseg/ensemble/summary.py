"""An ensemble's scores as documents: summary.json and ranking.csv."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.split_results import SplitResult
from landseg.ensemble.split_scores import FewerViewsScored, Scored, Scoring, scored_split
from landseg.scoring.calibration import accuracy, calibration_error, mean_confidence, reliability
from landseg.scoring.intervals import CONFIDENCE


def summarise(ensemble: Ensemble, results: Sequence[SplitResult], scorings: Sequence[Scoring]) -> dict[str, Any]:
    """The content of summary.json."""
    names = [member.name for member in ensemble.members]
    main = scored_split(scorings)
    return {
        "models": {name: main.ensembles[(i,)].scores if main else {} for i, name in enumerate(names)},
        "ensemble": main.whole.scores if main else {},
        "scored_split": main.split if main else None,
        "confusion": main.whole.confusion.tolist() if main and main.whole.confusion is not None else [],
        "weights": {member.name: member.weight for member in ensemble.members},
        "temperatures": {member.name: member.temperature for member in ensemble.members},
        "fit": ensemble.fit
        and ensemble.fit.model_dump(mode="json", exclude={"models", "weights", "temperatures", "fitted_on"}),
        "num_tiles": {split: info.num_tiles for split, info in ensemble.dataset.manifest.splits.items()},
        "confidence": CONFIDENCE,
        "splits": {scoring.split: _describe(scoring) for scoring in scorings},
        "disagreement": {result.split: _means(result) for result in results},
    }


def _describe(scoring: Scoring) -> dict[str, Any]:
    described: dict[str, Any] = {
        "ensembles": [
            {"models": scored.models, "scores": scored.scores, "intervals": scored.intervals}
            for scored in scoring.ensembles.values()
        ],
        "calibration": _by_model(scoring, _calibration),
        "boundary": _by_model(scoring, lambda scored: scored.boundary),
        "num_scored_tiles": scoring.num_tiles,
        "num_scored_scenes": scoring.num_scenes,
        "num_resampled": scoring.num_units,
        "trained_on_it": list(scoring.seen_by),
    }
    if scoring.of_tiles:
        described["tiles"] = scoring.of_tiles
    if scoring.views:
        described["views"] = {tta: _describe_views(found) for tta, found in scoring.views.items()}
    if scoring.gain is not None and scoring.best is not None:
        best = scoring.ensembles[(scoring.best,)].models[0]
        described["gain"] = {"over": best, "mIoU": scoring.gain[0], "interval": scoring.gain[1]}
        described["gain_of"] = {
            name: {"mIoU": value, "interval": ends} for name, (value, ends) in scoring.gains.items()
        }
    return described


def _by_model(scoring: Scoring, describe: Callable[[Scored], dict[str, Any]]) -> dict[str, Any]:
    """A description of each model, and of the ensemble."""
    alone = {scored.models[0]: scored for scored in scoring.ensembles.values() if len(scored.models) == 1}
    return {name: describe(scored) for name, scored in {**alone, "ensemble": scoring.whole}.items()}


def _calibration(scored: Scored) -> dict[str, Any]:
    counts = scored.reliability
    if counts is None or not counts[0].any():  # only pixels between those of the grid are labelled
        return {}
    columns = (counts[0], *reliability(counts))
    return {
        "ECE": calibration_error(counts),
        "confidence": mean_confidence(counts),
        "accuracy": accuracy(counts),
        "bins": [
            {"pixels": int(pixels), "confidence": float(sure), "accuracy": float(right)} if pixels else {"pixels": 0}
            for pixels, sure, right in zip(*columns, strict=True)
        ],
    }


def _describe_views(found: Sequence[FewerViewsScored]) -> dict[str, Any]:
    names = [*(fewer.scored.models[0] for fewer in found[:-1]), "ensemble"]
    return {
        name: {
            "scores": fewer.scored.scores,
            "intervals": fewer.scored.intervals,
            "all_views_add": {"mIoU": fewer.gain[0], "interval": fewer.gain[1]},
        }
        for name, fewer in zip(names, found, strict=True)
    }


def _means(result: SplitResult) -> dict[str, float]:
    return {
        "differing": float(result.differing.mean()),
        "disagreement": float(result.disagreement.mean()),
        "entropy": float(result.entropy.mean()),
    }


def as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: one that looks like it begins with an apostrophe."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def write_ranking(path: Path, results: Sequence[SplitResult], names: Sequence[str]) -> None:
    """Write all tiles as CSV, those most worth inspecting first: where the ensemble is least decided."""
    # Sorted by entropy as written, then by name: `in_order` and its tiles are alphabetical, and the sort is stable.
    in_order = sorted(results, key=lambda result: result.split)
    order = np.concatenate([result.entropy for result in in_order])
    np.negative(np.round(order, 6, out=order), out=order)
    starts = np.cumsum([0, *(len(result.tile_ids) for result in in_order)])
    scored = [f"mIoU.{name}" for name in (*names, "ensemble")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rank", "split", "tile", "entropy", "disagreement", "differing", *scored])
        for rank, place in enumerate(np.argsort(order, kind="stable"), 1):
            number = int(np.searchsorted(starts, place, side="right")) - 1
            result, i = in_order[number], int(place - starts[number])
            own = [float("nan")] * len(scored) if result.areas is None else result.areas.tile_miou[i].tolist()
            mious = ["" if np.isnan(miou) else f"{miou:.6f}" for miou in own]
            uncertainty = [f"{value:.6f}" for value in (result.entropy[i], result.disagreement[i], result.differing[i])]
            writer.writerow([rank, result.split, as_text(result.tile_ids[i]), *uncertainty, *mious])
