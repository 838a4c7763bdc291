"""Which class a polygon is of: what its name, or the value of a field, means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from landseg.contracts.errors import DataError
from landseg.contracts.label_source import LabelSource
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.polygons.files import MAX_SHOWN, MAX_SHOWN_CHARS, shortened
from landseg.raw.labels.rule import LabelRule
from landseg.raw.labels.unknown.proposals import NAME, NAME_MEANS, flow_map

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


def staged_values(
    values: Iterable[Any], source: LabelSource, config: DatasetConfig, where: object, field: str
) -> list[int]:
    """What polygons are staged as.

    Args:
        values: the value of each that tells its class.
        source: which class all are of, or what values mean.
        config: the classes.
        where: the file, for the error line.
        field: what tells the class, for the error line.

    Raises:
        DataError: values mean nothing.
    """
    rule = LabelRule(config)
    if source.class_name is not None:
        return [rule.staged_classes[None if source.class_name == IGNORE else source.class_name] for _ in values]
    column = [text_of(value) for value in values]
    meanings = {text: class_of(text, source, rule) for text in set(column)}
    unknown = Counter(text for text in column if meanings[text] is None)
    if unknown:
        # Beside `values`, names of classes mean themselves, and numbers nothing.
        numbers = [text for text in sorted(meanings) if meanings[text] is not None and _WHOLE_NUMBER.fullmatch(text)]
        known = dict(source.values or {text: rule.class_of(int(text)) or IGNORE for text in numbers})
        found = ", ".join(
            f"{shortened(text) or 'no value'} ({number} polygons)" for text, number in unknown.most_common(MAX_SHOWN)
        )
        more = f" and {len(unknown) - MAX_SHOWN} more" if len(unknown) > MAX_SHOWN else ""
        short = sorted(text for text in unknown if len(text) <= MAX_SHOWN_CHARS)[:MAX_SHOWN]
        proposed = flow_map({**source.written(), "values": known | dict.fromkeys(short, NAME)})
        problem = f"values of {field} that are no classes: {found}{more}; expected {', '.join(config.classes)}"
        raise DataError(where, problem, f"write labels: {proposed}, with {NAME_MEANS}")
    return [value for text in column if (value := meanings[text]) is not None]


def text_of(value: Any) -> str:
    """A field's value as text; whole numbers without a fraction, "" for none."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        value = int(value)
    return str(value).strip()


def class_of(value: Any, source: LabelSource, rule: LabelRule) -> int | None:
    """What a field's value is staged as; None for one that means nothing.

    The name of a class means that class, unless `values` says otherwise. Numbers mean what `values` says where there is
    such a map, else what they mean in rasters.
    """
    text = text_of(value)
    name = dict(source.values or ()).get(text, text)
    if name in rule.staged_classes or name == IGNORE:
        return rule.staged_classes[None if name == IGNORE else name]
    if source.values is None and _WHOLE_NUMBER.fullmatch(text):
        return rule.staged_value(int(text))
    return None


def staged_outside(source: LabelSource, rule: LabelRule) -> int:
    """What pixels in no polygon are staged as."""
    return rule.staged_classes[None if source.outside in (None, IGNORE) else source.outside]
