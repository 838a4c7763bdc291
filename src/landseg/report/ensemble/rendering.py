"""The page of the ensemble report: what averaging gained, and where the models disagree. Plain data in, HTML out."""

from __future__ import annotations

from markupsafe import Markup

from landseg.report import figures
from landseg.report.ensemble.areas import area_rows
from landseg.report.ensemble.calibration import calibration_rows, reliability_diagram
from landseg.report.ensemble.content import EnsembleReport
from landseg.report.ensemble.sentences import gain, interval_note, verdict
from landseg.report.figures import ENSEMBLE, SUBSET, TRUTH
from landseg.report.page import PICTURE_BYTES, count, metric, palette_css, percent, render_page, sentence, signed
from landseg.report.scores import Entry, class_rows, largest_confusions, matrices, score_axis
from landseg.report.tile_pictures import galleries
from landseg.scoring.scores import METRICS

_MAX_MAPS = 200
"""The most files of maps that are listed."""


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
    calibrations = calibration_rows(entries, report.scored_split)
    sections = [
        ("result", "Result", True),
        ("views", "Flip views", bool(report.views)),
        ("classes", "Classes", scored),
        ("confusions", "Confusions", confusion is not None),
        ("calibration", "Calibration", bool(calibrations)),
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
        verdict=verdict(report),
        gain=gain(report),
        interval_note=interval_note(report),
        headline=[(entry, figures.dots(entry.mark("mIoU"), axis, percent), _adds(report, entry)) for entry in headline],
        headline_ruler=figures.ruler(axis, lambda value: percent(value, 0)),
        class_rows=rows if scored else [],
        absent=[name for name, pixels in zip(report.classes, true_px, strict=False) if not pixels],
        class_ruler=ruler,
        matrices=matrices(report.classes, entries),
        shown_maps=report.maps[:_MAX_MAPS],
        calibrations=calibrations,
        reliability_diagram=reliability_diagram(entries),
        confusions=[] if confusion is None else largest_confusions(confusion),
        galleries=shown,
        areas=[(area, *area_rows(area)) for area in report.areas],
        truth_marker=figures.marker(TRUTH),
        ensemble_marker=figures.marker(ENSEMBLE),
        total_s=sum(cost.seconds or 0 for cost in report.costs),
        total_gpu_s=sum(cost.gpu_seconds or 0 for cost in report.costs),
        total_bytes=sum(cost.size_bytes or 0 for cost in report.costs),
    )


def _adds(report: EnsembleReport, entry: Entry) -> Markup:
    """What a model adds to the ensemble, with its interval as hover text; empty if not known."""
    if entry.name not in report.adds or entry.series == ENSEMBLE:
        return Markup("")
    value, ends = report.adds[entry.name]
    text = metric(f"splits.{report.scored_split}.gain_of.{entry.name}.mIoU", value, signed(value, 2))
    if ends is None:
        return text
    return Markup('<span title="{} to {}">{}</span>').format(*(signed(end, 2) for end in ends), text)
