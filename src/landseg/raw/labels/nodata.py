"""Labels whose files call a value nodata that `dataset.yaml` calls a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.rule import LabelRule

_SHOWN = 40


def label_nodata_warnings(labels: Mapping[float, int], config: DatasetConfig) -> Iterator[Finding]:
    """Warnings of labels whose file calls a value nodata that `dataset.yaml` calls a class.

    Args:
        labels: labels by the nodata value that they declare.
        config: `dataset.yaml`.
    """
    rule = LabelRule(config)
    for value, count in sorted(labels.items()):
        name = rule.class_of(value)
        if name is None:
            continue
        others = {key: other for key in range(256) if (other := rule.class_of(key)) not in (None, name)}
        lines = ", ".join(f"{key}: {other}" for key, other in {int(value): IGNORE, **others}.items())
        write = f"remove {name} from classes and write label_values: {{{lines}}}" if len(others) <= _SHOWN else "map it"
        declare = "label declares" if count == 1 else "labels declare"
        sentence = f"{count} {declare} nodata {value:g}, which dataset.yaml calls class {name}"
        yield Finding("", f"{sentence}: if these pixels are unlabelled, {write}", severity="warning")
