"""What the ensemble report says in words: the result, and how far its intervals may be trusted."""

from __future__ import annotations

from markupsafe import Markup, escape

from landseg.report.ensemble.content import EnsembleReport
from landseg.report.page import count, percent, sentence, signed
from landseg.report.scores import Prediction

FEW_UNITS = 20
"""With fewer scenes and tiles, the page says that intervals are rough."""


def _best_model(report: EnsembleReport) -> Prediction:
    return max(report.models, key=lambda model: model.scores["mIoU"])


def gain(report: EnsembleReport) -> float | None:
    """Ensemble mIoU minus the best single model's; None where there is none, or they do not compare."""
    if len(report.models) == 1 or not report.ensemble.scores or report.seen_by:
        return None
    return report.ensemble.scores["mIoU"] - _best_model(report).scores["mIoU"]


def verdict(report: EnsembleReport) -> Markup:
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
    points = gain(report)
    if points is None:
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
    relation = "above" if points > 0 else "below" if points < 0 else "from"
    text = Markup(
        "The ensemble reaches a mean IoU of <b>{} %</b> on {}, <b>{} points</b> {} the {} single model, {}"
        " (chosen on the same tiles)."
    ).format(percent(report.ensemble.scores["mIoU"], 2), where, percent(abs(points), 2), relation, rank, best.name)
    if report.gain_interval is not None and report.gain_interval[0] <= 0 <= report.gain_interval[1]:
        text += Markup(
            " The {} % interval of the difference includes zero ({} to {}): the difference may be due to chance."
        ).format(percent(report.confidence, 0), *(signed(end, 2) for end in report.gain_interval))
    return text


def interval_note(report: EnsembleReport) -> str:
    """What intervals rest on, and how far they may be trusted."""
    scenes = report.num_scored_scenes
    tiles = report.num_units - scenes
    parts = [f"{count(scenes)} {_plural('scene', scenes)}"] * bool(scenes)
    parts += [f"{count(tiles)} {_plural('tile', tiles)}"] * bool(tiles or not scenes)
    text = f"{percent(report.confidence, 0)} % intervals resample {sentence(parts)}"
    if tiles > scenes:
        text += (
            ": they are optimistic if those tiles were cut from larger images, because neighbours resemble each other"
        )
    if report.num_units < FEW_UNITS:
        text += f"; from fewer than {FEW_UNITS}, they are rough themselves"
    return f"{text}."


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
