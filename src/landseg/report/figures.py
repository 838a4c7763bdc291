"""Charts as inline SVG and HTML: sharp at every width, no library, no script.

Marks sit at percentages of their chart's width, so text keeps its size on a phone. Colours come from the style sheet by
class (`s0`, `s1`, ... for models, `se` for the ensemble), and each series has its own shape as well as its own colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from landseg.report.page import count, number
from landseg.scoring.intervals import Interval

ENSEMBLE = -1
"""Series number of the ensemble."""

TRUTH = -2
"""Series number of the truth."""

SUBSET = -3
"""Series number of an ensemble of some of the models."""

NUM_STYLES = 6
"""Series beyond these repeat colours and shapes; their names and numbers are always printed next to them."""

_SHAPES = (
    "M-4.2 0A4.2 4.2 0 1 1 4.2 0A4.2 4.2 0 1 1-4.2 0Z",
    "M-3.8-3.8H3.8V3.8H-3.8Z",
    "M0-4.8L4.8 3.6H-4.8Z",
    "M0 4.8L4.8-3.6H-4.8Z",
    "M-4.6-1.5H-1.5V-4.6H1.5V-1.5H4.6V1.5H1.5V4.6H-1.5V1.5H-4.6Z",
    "M0-5L4.76-1.55 2.94 4.05H-2.94L-4.76-1.55Z",
)
_DIAMOND = "M0-6.2L6.2 0 0 6.2-6.2 0Z"
_MAX_POINTS = 500


@dataclass(frozen=True)
class Axis:
    """A linear axis with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Position of a value, 0-100; values outside sit on the edge."""
        return min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class Mark:
    """One value of a row of marks, with its interval, if known."""

    name: str
    series: int
    value: float
    interval: Interval | None = None


@dataclass(frozen=True, eq=False)
class Series:
    """A line of a chart; `points` also marks each value, `faint` keeps it behind the others."""

    name: str
    series: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    points: bool = False
    faint: bool = False


def axis(
    values: Iterable[float],
    low: float | None = None,
    high: float | None = None,
    num_ticks: int = 5,
    whole: bool = False,
) -> Axis:
    """An axis around finite values; ticks, and the ends that are not fixed, at 1, 2, 2.5 or 5 times a power of ten.

    Args:
        values: what must fit.
        low: fixed lower end.
        high: fixed upper end.
        num_ticks: about how many ticks.
        whole: ticks at whole numbers only.
    """
    finite = [value for value in values if math.isfinite(value)]
    bottom = low if low is not None else min(finite, default=0.0)
    top = high if high is not None else max(finite, default=1.0)
    if not top - bottom > 1e-9 * max(abs(top), abs(bottom), 1e-3):  # too close together for a chart to tell apart
        bottom, top = (bottom, bottom + 1) if low is not None else (bottom - 0.5, bottom + 0.5)
    rough = (top - bottom) / max(1, num_ticks - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(factor * power for factor in factors if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first = math.ceil(bottom / step - 1e-9) if low is not None else math.floor(bottom / step + 1e-9)
    last = math.floor(top / step + 1e-9) if high is not None else math.ceil(top / step - 1e-9)
    ticks = tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))
    return Axis(low if low is not None else ticks[0], high if high is not None else ticks[-1], ticks)


def style(series: int) -> str:
    """The style-sheet class of a series."""
    return {ENSEMBLE: "se", TRUTH: "st", SUBSET: "sx"}.get(series, f"s{series % NUM_STYLES}")


def marker(series: int) -> Markup:
    """A series' shape, for legends and tables."""
    return Markup(
        '<svg class="mark {}" width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true"><path d="{}"/></svg>'
    ).format(style(series), _shape(series))


def swatch(series: int) -> Markup:
    """A short stroke in a line's colour, for the key of a chart."""
    return Markup('<svg class="stroke {}" width="18" height="10" aria-hidden="true"><path d="M1 5H15"/></svg>').format(
        style(series)
    )


def _shape(series: int) -> str:
    return {ENSEMBLE: _DIAMOND, SUBSET: _DIAMOND, TRUTH: _SHAPES[0]}.get(series, _SHAPES[series % NUM_STYLES])


def dots(marks: Sequence[Mark], scale: Axis, text: Callable[[float], str]) -> Markup:
    """A row of marks on a common axis; hidden from screen readers because the same table row holds the numbers.

    Args:
        marks: drawn in order, the last on top.
        scale: the axis that all rows share.
        text: how a value is written in the hover text.
    """
    parts = [Markup('<svg class="dots" width="100%" height="22" aria-hidden="true">')]
    for tick in scale.ticks:
        at = f"{scale.at(tick):.2f}%"
        parts.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="22"/>').format(at))
    if len(marks) > 1:
        low, high = (pick(scale.at(mark.value) for mark in marks) for pick in (min, max))
        parts.append(Markup('<line class="span" x1="{:.2f}%" x2="{:.2f}%" y1="11" y2="11"/>').format(low, high))
    for mark in marks:
        title = f"{mark.name}: {text(mark.value)}"
        parts.append(Markup('<g class="{}">').format(style(mark.series)))
        if mark.interval is not None:
            low, high = (scale.at(end) for end in mark.interval)
            title += f" ({text(mark.interval[0])} to {text(mark.interval[1])})"
            parts.append(Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="11" y2="11"/>').format(low, high))
        parts.append(
            Markup(
                '<svg x="{:.2f}%" y="11" overflow="visible"><path class="shape" d="{}"/><title>{}</title></svg></g>'
            ).format(scale.at(mark.value), _shape(mark.series), title)
        )
    return Markup("").join([*parts, Markup("</svg>")])


def ruler(scale: Axis, text: Callable[[float], str]) -> Markup:
    """The tick labels of an axis, for the head of a column of :func:`dots`."""
    labels = (Markup('<span style="left:{:.2f}%">{}</span>').format(scale.at(tick), text(tick)) for tick in scale.ticks)
    return Markup('<span class="ruler" aria-hidden="true">{}</span>').format(Markup("").join(labels))


def lines(title: str, series: Sequence[Series], x_name: str, x: Axis, y: Axis) -> Markup:
    """A line chart.

    Args:
        title: what the chart shows, for readers who cannot see it.
        series: the lines; a value that is not finite breaks its line.
        x_name: what the x axis counts.
        x: the x axis, of whole numbers.
        y: the y axis.
    """
    grid = "".join(f"M0 {1000 - 10 * y.at(tick):.0f}H1000" for tick in y.ticks)
    paths = [Markup('<path class="grid" d="{}"/>').format(grid)]
    for line in series:
        kind = style(line.series) + (" faint" if line.faint else "")
        paths.append(
            Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(kind, _path(line, x, y), line.name)
        )
        if line.points:
            dots_path = "".join(
                f"M{10 * x.at(a):.1f} {1000 - 10 * y.at(b):.1f}h.01"
                for a, b in zip(line.x, line.y, strict=True)
                if math.isfinite(b)
            )
            paths.append(Markup('<path class="points {}" d="{}"/>').format(kind, dots_path))
    ticks = [Markup('<span class="ty" style="bottom:{:.2f}%">{}</span>').format(y.at(t), number(t, 3)) for t in y.ticks]
    ticks += [Markup('<span class="tx" style="left:{:.2f}%">{}</span>').format(x.at(t), count(t)) for t in x.ticks]
    return Markup(
        '<div class="chart" role="img" aria-label="{}"><div class="plot">'
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{}</svg>{}</div>'
        '<div class="x-name" aria-hidden="true">{}</div></div>'
    ).format(title, Markup("").join(paths), Markup("").join(ticks), x_name)


def _path(line: Series, x: Axis, y: Axis) -> str:
    """Move and line commands in a 1000 × 1000 box."""
    parts, pen_down = [], False
    for a, b in zip(*thin(line.x, line.y), strict=True):
        if math.isfinite(b):
            parts.append(f"{'L' if pen_down else 'M'}{10 * x.at(a):.1f} {1000 - 10 * y.at(b):.1f}")
        pen_down = math.isfinite(b)
    return "".join(parts)


def thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most 500 points of a curve: the lowest and the highest of each stretch, so that no spike is lost.

    Args:
        x: (n,) float64, rising.
        y: (n,) float64; a stretch with a value that is not finite becomes a gap.

    Returns:
        The thinned x and y.
    """
    if len(x) <= _MAX_POINTS:
        return x, y
    keep: list[int] = []
    for stretch in np.array_split(np.arange(len(x)), _MAX_POINTS // 2):
        bad = stretch[~np.isfinite(y[stretch])]
        keep += sorted(
            {int(bad[0])} if len(bad) else {int(stretch[pick(y[stretch])]) for pick in (np.argmin, np.argmax)}
        )
    return x[keep], y[keep]


def smooth(y: NDArray[np.float64], share: float = 0.03) -> NDArray[np.float64]:
    """Running mean over the finite values in a window whose width is a fraction of the curve.

    Args:
        y: (n,) float64.
        share: window as a fraction of n.

    Returns:
        (n,) float64; not finite where no value in the window is.
    """
    half = max(1, round(len(y) * share / 2))
    finite = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    low = np.maximum(np.arange(len(y)) - half, 0)
    high = np.minimum(np.arange(len(y)) + half + 1, len(y))
    with np.errstate(invalid="ignore"):
        return np.asarray((sums[high] - sums[low]) / (counts[high] - counts[low]), dtype=np.float64)
