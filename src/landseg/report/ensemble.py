"""The ensemble report: what averaging the models' probabilities gained, and where the models disagree.

Plain data in, one HTML file out. Scores are the mappings that `landseg.scoring.scores.scores` returns and that
`summary.json` holds, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from landseg.report import figures
from landseg.report.areas import ClassAreas, area_rows
from landseg.report.costs import StageCost
from landseg.report.figures import ENSEMBLE, SUBSET, TRUTH
from landseg.report.page import PICTURE_BYTES, Facts, count, metric, palette_css, percent, render_page, sentence, signed
from landseg.report.scores import Entry, Prediction, class_rows, largest_confusions, matrices, score_axis
from landseg.report.tile_pictures import TilePicture, galleries
from landseg.scoring.intervals import Interval
from landseg.scoring.scores import METRICS

_MAX_MAPS = 200
"""The most files of maps that are listed."""


@dataclass(frozen=True)
class FewerViewsRow:
    """A row of the table of flip views: a model, or the ensemble, with fewer of them than are averaged.

    Attributes:
        tta: the views, as `--tta` names them.
        name: the model's name, or `ensemble`.
        mIoU: with these views.
        adds: mIoU with all views minus that.
        interval: confidence interval of the difference, if known.
    """

    tta: str
    name: str
    mIoU: float  # noqa: N815  # its name in the field
    adds: float
    interval: Interval | None = None


@dataclass(frozen=True, eq=False)
class SplitScores:
    """Scores of a labelled split that is not the one that stands for the run.

    Attributes:
        split: its name.
        num_tiles: tiles with a scored pixel.
        num_scenes: scenes with a scored pixel, which are scored in place of their tiles.
        predictions: the models, then the ensemble where there are several.
    """

    split: str
    num_tiles: int
    num_scenes: int
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class MapFile:
    """A file of maps.

    Attributes:
        path: in the folder of the report.
        kind: `labels`, or the layer.
        split: the split.
        num_maps: maps in it.
    """

    path: str
    kind: str
    split: str
    num_maps: int


@dataclass(frozen=True, eq=False)
class EnsembleReport:
    """Everything the page shows.

    Attributes:
        run_id: the run's name.
        dataset: the dataset's name.
        classes: class names in class-id order.
        palette: one RGB colour per class.
        models: one entry per model, in the order of the average; at least one.
        ensemble: the ensemble.
        num_tiles: tiles by split, as in `summary.json`.
        num_scored_tiles: tiles of the scored split with a scored pixel.
        num_scored_scenes: scenes of the scored split with a scored pixel, which are scored in place of their tiles.
        seen_by: the models that were trained on the scored split: then no scores are compared.
        scored_split: the split that the scores are of; None if there are no labels.
        confidence: the level of all intervals, e.g. 0.95.
        gain_interval: confidence interval of the gain: ensemble mIoU minus the best single model's.
        adds: by model: the ensemble's mIoU minus that of the ensemble without it (for two models, that of the other
            one), and its confidence interval, if known.
        subsets: with three or more models, the ensembles of some of them, named `swin+resnest` and so on.
        views: scores with fewer views, if each view was stored individually.
        other_splits: scores of the other labelled splits.
        areas: class areas per predicted split.
        maps: the files of maps.
        disagreeing: tiles in falling order of disagreement.
        worst: labelled tiles in rising order of the ensemble's score.
        best: labelled tiles in falling order of the ensemble's score.
        costs: one entry per stage, in pipeline order.
        provenance: sections of facts: dataset, models (checkpoint digest, config), parameters, versions. A value with
            line breaks (a resolved config) is folded away.
        warnings: what the reader has to know before trusting a number, one sentence each.
    """

    run_id: str
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    models: tuple[Prediction, ...]
    ensemble: Prediction
    num_tiles: Mapping[str, int]
    scored_split: str | None = None
    num_scored_tiles: int = 0
    num_scored_scenes: int = 0
    seen_by: tuple[str, ...] = ()
    confidence: float = 0.95
    gain_interval: Interval | None = None
    adds: Mapping[str, tuple[float, Interval | None]] = field(default_factory=dict)
    subsets: tuple[Prediction, ...] = ()
    views: tuple[FewerViewsRow, ...] = ()
    other_splits: tuple[SplitScores, ...] = ()
    areas: tuple[ClassAreas, ...] = ()
    maps: tuple[MapFile, ...] = ()
    disagreeing: tuple[TilePicture, ...] = ()
    worst: tuple[TilePicture, ...] = ()
    best: tuple[TilePicture, ...] = ()
    costs: tuple[StageCost, ...] = ()
    provenance: Facts = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def render(report: EnsembleReport) -> str:
    """Make the page.

    Returns:
        HTML, at most 5 MB.
    """
    entries = [Entry(model, number, f"models.{model.name}") for number, model in enumerate(report.models)]
    single = len(entries) == 1
    entries = entries if single else [*entries, Entry(report.ensemble, ENSEMBLE, "ensemble")]
    lists = [
        ("disagreement", "Where the models disagree", () if single else report.disagreeing),
        ("worst", "Worst tiles", report.worst),
        ("best", "Best tiles", report.best),
    ]
    names = [model.name for model in report.models]
    shown = galleries(lists, names, report.classes, report.palette, PICTURE_BYTES)
    confusion = report.ensemble.confusion
    scored = bool(report.ensemble.scores)
    true_px = [] if confusion is None else confusion.sum(axis=1).tolist()
    shares = [pixels / max(1, sum(true_px)) for pixels in true_px]
    sections = [
        ("result", "Result", True),
        ("views", "Flip views", bool(report.views)),
        ("classes", "Classes", scored),
        ("confusions", "Confusions", confusion is not None),
        *((gallery.id, gallery.title, True) for gallery in shown),
        ("areas", "Areas", bool(report.areas)),
        ("maps", "Maps", bool(report.maps)),
        ("cost", "Cost", bool(report.costs)),
        ("provenance", "Provenance", bool(report.provenance)),
    ]
    tiles = Markup(" + ").join(
        Markup("{} {}").format(metric(f"num_tiles.{split}", number, count(number)), split)
        for split, number in report.num_tiles.items()
    )
    subsets = [Entry(subset, SUBSET, f"subsets.{subset.name}") for subset in report.subsets]
    headline = [*entries[:-1], *subsets, entries[-1]]
    axis = score_axis(headline, ["mIoU"], headline)
    rows, ruler = class_rows(report.classes, entries, shares, compared=not report.seen_by)
    return render_page(
        "ensemble.html",
        kind="ensemble report",
        title=report.run_id,
        meta=[f"dataset {report.dataset}", tiles + " tiles", sentence(names)],
        sections=[(id, name) for id, name, present in sections if present],
        palette_css=palette_css(report.palette),
        report=report,
        entries=entries,
        notes={entry.name: entry.prediction.note for entry in entries},
        keys=METRICS,
        verdict=_verdict(report),
        gain=_gain(report),
        headline=[(entry, figures.dots(entry.mark("mIoU"), axis, percent), _adds(report, entry)) for entry in headline],
        headline_ruler=figures.ruler(axis, lambda value: percent(value, 0)),
        class_rows=rows if scored else [],
        absent=[name for name, pixels in zip(report.classes, true_px, strict=False) if not pixels],
        class_ruler=ruler,
        matrices=matrices(report.classes, entries),
        shown_maps=report.maps[:_MAX_MAPS],
        confusions=[] if confusion is None else largest_confusions(confusion),
        galleries=shown,
        areas=[(area, *area_rows(area)) for area in report.areas],
        truth_marker=figures.marker(TRUTH),
        ensemble_marker=figures.marker(ENSEMBLE),
        total_s=sum(cost.seconds or 0 for cost in report.costs),
        total_gpu_s=sum(cost.gpu_seconds or 0 for cost in report.costs),
        total_bytes=sum(cost.size_bytes or 0 for cost in report.costs),
    )


def _best_model(report: EnsembleReport) -> Prediction:
    return max(report.models, key=lambda model: model.scores["mIoU"])


def _gain(report: EnsembleReport) -> float | None:
    """Ensemble mIoU minus the best single model's; None where there is none, or they do not compare."""
    if len(report.models) == 1 or not report.ensemble.scores or report.seen_by:
        return None
    return report.ensemble.scores["mIoU"] - _best_model(report).scores["mIoU"]


def _adds(report: EnsembleReport, entry: Entry) -> Markup:
    """What a model adds to the ensemble, with its interval as hover text; empty if not known."""
    if entry.name not in report.adds or entry.series == ENSEMBLE:
        return Markup("")
    value, ends = report.adds[entry.name]
    text = metric(f"splits.{report.scored_split}.gain_of.{entry.name}.mIoU", value, signed(value, 2))
    if ends is None:
        return text
    return Markup('<span title="{} to {}">{}</span>').format(*(signed(end, 2) for end in ends), text)


def _verdict(report: EnsembleReport) -> Markup:
    """The result in one or two sentences."""
    if not report.ensemble.scores:
        return escape(
            "No pixel of this run is labelled, so nothing is scored: see where the models disagree, and the areas."
        )
    where = _where(report)
    if len(report.models) == 1:
        only = report.models[0]
        ending = (
            f", but it was trained on {report.scored_split}: the score says nothing about other tiles."
            if report.seen_by
            else "; there is no second model to average with."
        )
        return Markup("<b>{}</b> reaches a mean IoU of <b>{} %</b> on {}{}").format(
            only.name, percent(only.scores["mIoU"], 2), where, ending
        )
    gain = _gain(report)
    if gain is None:
        return Markup(
            "The ensemble reaches a mean IoU of <b>{} %</b> on {}, but {} trained on {}: the score says nothing about "
            "other tiles, and it is not known whether averaging gains anything."
        ).format(
            percent(report.ensemble.scores["mIoU"], 2),
            where,
            sentence(report.seen_by) + (" was" if len(report.seen_by) == 1 else " were"),
            report.scored_split,
        )
    best = _best_model(report)
    rank = "better" if len(report.models) == 2 else "best"
    relation = "above" if gain > 0 else "below" if gain < 0 else "from"
    text = Markup(
        "The ensemble reaches a mean IoU of <b>{} %</b> on {}, <b>{} points</b> {} the {} single model, {}"
        " (chosen on the same tiles)."
    ).format(percent(report.ensemble.scores["mIoU"], 2), where, percent(abs(gain), 2), relation, rank, best.name)
    if report.gain_interval is not None and report.gain_interval[0] <= 0 <= report.gain_interval[1]:
        text += Markup(
            " The {} % interval of the difference includes zero ({} to {}): the difference may be due to chance."
        ).format(percent(report.confidence, 0), *(signed(end, 2) for end in report.gain_interval))
    return text


def _where(report: EnsembleReport) -> str:
    """What the scores are of, e.g. `12 val tiles`."""
    if report.scored_split is None:
        return "all labelled tiles"
    tiles = f"{count(report.num_scored_tiles)} {report.scored_split} {_plural('tile', report.num_scored_tiles)}"
    if not report.num_scored_scenes:
        return tiles
    return f"{tiles} ({count(report.num_scored_scenes)} stitched {_plural('scene', report.num_scored_scenes)})"


def _plural(noun: str, number: int) -> str:
    return noun if number == 1 else f"{noun}s"
