"""What the three reports have in common: the page, its templates, and how numbers are written.

A report is one HTML file without any reference to the network, readable with scripts disabled (artifact viewers sandbox
their frames). Names come from users' files, so the templates escape everything that is not built here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from landseg import __version__
from landseg.cli.progress import duration
from landseg.contracts.errors import masked, without_credentials

Facts = Mapping[str, Mapping[str, object]]
"""Provenance: section title -> name -> value."""

RGB = tuple[int, int, int]

MAX_BYTES = 5 << 20
"""The largest that a report may be, so that artifact viewers show it."""

PICTURE_BYTES = 3_600_000
"""The most that all pictures of a page may take; the rest is for text and tables."""

MAX_TABLE_ROWS = 200
"""The longest list of files on a page; the page says how many it leaves out."""

MAX_FACT_CHARS = 100_000
"""The longest single fact (a resolved config); the page says how much it leaves out."""

MAX_FACTS_BYTES = 500_000
"""All facts of a page together, as HTML; they stand in it twice, once as JSON to copy."""

NO_VALUE = "–"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

# Farthest points in CIELAB under normal vision and simulated protanopia, deuteranopia and tritanopia: the first 9 are
# at least 32 apart in the worst of the four, all 16 at least 19 (Okabe and Ito's and Tol's schemes: 16 at 9 colours).
_SAFE_COLOURS: tuple[RGB, ...] = (
    (17, 153, 136),
    (255, 187, 51),
    (68, 0, 119),
    (102, 0, 0),
    (204, 238, 170),
    (170, 119, 238),
    (119, 255, 255),
    (204, 68, 34),
    (0, 68, 85),
    (136, 170, 102),
    (102, 85, 68),
    (170, 85, 170),
    (153, 204, 255),
    (238, 221, 119),
    (102, 68, 187),
    (255, 136, 187),
)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage without its sign: 0.7006 -> 70.1."""
    return NO_VALUE if value is None else f"{100 * value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign: 0.0045 -> +0.5."""
    if value is None:
        return NO_VALUE
    text = f"{100 * value:+.{digits}f}"
    return f"±{text[1:]}" if float(text) == 0 else text.replace("-", "−")


def count(value: float) -> str:
    """A whole number with thin spaces: 1234567 -> 1 234 567."""
    return f"{value:,.0f}".replace(",", "\u202f")


def size(value: float | None) -> str:
    """Bytes in units that are easy to read, in powers of ten."""
    if value is None:
        return NO_VALUE
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}\u202f{unit}" if value < 1000 * factor else f"{value / factor:.0f}\u202f{unit}"
    return f"{value:.0f}\u202fB"


def number(value: float, digits: int = 4) -> str:
    """A number with a few significant digits."""
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def millions(value: int) -> str:
    """A count in millions: 121_300_000 -> 121.3."""
    return f"{value / 1e6:.1f}" if value >= 1e5 else f"{value / 1e6:.3f}"


def metric(key: str, value: float | None, text: str) -> Markup:
    """A number with its key and its exact value, so that programs can read it.

    Args:
        key: the number's path in `summary.json`, e.g. `ensemble.mIoU`.
        value: the value as `summary.json` holds it; None writes only the text.
        text: what readers see.
    """
    if value is None:
        return escape(text)
    return Markup('<span data-metric="{}" data-value="{}">{}</span>').format(
        key, repr(value if isinstance(value, int) else float(value)), text
    )


def hex_colour(colour: RGB) -> str:
    """An RGB colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def safe_palette(palette: Sequence[RGB]) -> tuple[RGB, ...]:
    """Colours that stay distinct under colour blindness, each as close to the dataset's own colour as possible.

    Args:
        palette: the dataset's colours.

    Returns:
        The same number of colours; they repeat beyond 16 classes.
    """
    rounds = -(-len(palette) // len(_SAFE_COLOURS))
    free = list(enumerate(_SAFE_COLOURS * rounds))[: len(palette)]
    pairs = sorted(
        (sum((a - b) ** 2 for a, b in zip(own, colour, strict=True)), class_id, index)
        for class_id, own in enumerate(palette)
        for index, colour in free
    )
    chosen: dict[int, int] = {}
    taken: set[int] = set()
    for _, class_id, index in pairs:
        if class_id not in chosen and index not in taken:
            chosen[class_id] = index
            taken.add(index)
    colours = dict(free)
    return tuple(colours[chosen[class_id]] for class_id in range(len(palette)))


def palette_css(palette: Sequence[RGB]) -> Markup:
    """Custom properties `--c0`, `--c1`, ... for the dataset's colours and, behind the switch, the safe ones."""
    own = "".join(f"--c{i}:{hex_colour(colour)};" for i, colour in enumerate(palette))
    safe = "".join(f"--c{i}:{hex_colour(colour)};" for i, colour in enumerate(safe_palette(palette)))
    return Markup(f":root{{{own}}}:root:has(#palette-safe:checked){{{safe}}}")


def class_code(class_id: int, num_classes: int) -> str:
    """The class's code on the maps, so that classes are not told apart by colour alone.

    Up to 36 classes: the id as one character, letters from 10 on. Beyond: two characters, the tens of the id (letters
    from 10 on) and its last digit.
    """
    if num_classes <= len(_DIGITS):
        return _DIGITS[class_id]
    return _DIGITS[class_id // 10] + _DIGITS[class_id % 10]


def num_safe_colours(num_classes: int) -> int:
    """How many different colours the colour-blind-safe palette has for a number of classes."""
    return min(num_classes, len(_SAFE_COLOURS))


def facts_json(facts: Facts) -> str:
    """Provenance as JSON, for copying."""
    return json.dumps(facts, indent=1, ensure_ascii=False, default=str)


def fact_text(value: object) -> str:
    """One fact as text; structures as JSON."""
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list | tuple):
        return _cut(json.dumps(value, ensure_ascii=False, default=str), MAX_FACT_CHARS)
    return _cut(without_credentials(str(value)), MAX_FACT_CHARS)


def shown_facts(facts: Facts, room: int = MAX_FACTS_BYTES) -> Facts:
    """Provenance as a page may show it: without credentials, long facts cut, and those beyond `room` left out.

    Manifests come from elsewhere: their facts may be of any number and size.

    Args:
        facts: provenance.
        room: bytes of HTML that all facts together may take where they stand as JSON.
    """
    kept: dict[str, dict[str, object]] = {}
    for section, values in facts.items():
        for key, value in masked(values).items():
            if len(fact_text(value)) > MAX_FACT_CHARS:
                value = fact_text(value)
            room -= len(escape(json.dumps({section: {key: value}}, indent=2, ensure_ascii=False, default=str)).encode())
            if room < 0:
                kept.setdefault("Left out", {})["facts"] = "more than fit into this page"
                return kept
            kept.setdefault(masked(section), {})[key] = value
    return kept


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[:limit] + f"\n… {count(len(text) - limit)} more characters are not shown"


def sentence(names: Iterable[str]) -> str:
    """Names as a list in a sentence: `a`, `a and b`, `a, b and c`."""
    items = list(names)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + (" and " if items else "") + "".join(items[-1:])


_SCRIPT = (Path(__file__).parent / "templates" / "copy.js").read_text(encoding="utf-8").strip()
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
# With this policy the browser itself refuses whatever a hostile name might smuggle in.
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'"

_ENVIRONMENT = Environment(
    loader=PackageLoader("landseg.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(
    percent=percent,
    signed=signed,
    count=count,
    size=size,
    number=number,
    millions=millions,
    duration=duration,
    fact=fact_text,
    sentence=sentence,
)
_ENVIRONMENT.globals.update(
    class_code=class_code,
    num_safe_colours=num_safe_colours,
    metric=metric,
    facts_json=facts_json,
    script=Markup(_SCRIPT),
    policy=_POLICY,
    version=__version__,
    no_value=NO_VALUE,
)


def render_page(template: str, **context: Any) -> str:
    """Fill a template of `landseg/report/templates`.

    Args:
        template: its file name.
        context: what it shows; the provenance of its `report` is brought to a size that fits.

    Returns:
        The whole page, at most `MAX_BYTES`: pictures and tables have limits of their own, and facts make room for them.
    """
    page = _ENVIRONMENT.get_template(template)
    if "report" not in context:
        return page.render(**context)
    report = context.pop("report")
    text = page.render(report=replace(report, provenance=shown_facts(report.provenance)), **context)
    if len(text.encode()) > MAX_BYTES:
        text = page.render(report=replace(report, provenance=shown_facts(report.provenance, 0)), **context)
    return text
