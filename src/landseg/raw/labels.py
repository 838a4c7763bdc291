"""Wrong label values, and a guess at their cause for the error line: the offset, a 0/255 mask, colours."""

from __future__ import annotations

from collections.abc import Mapping

from landseg.contracts.errors import DataError
from landseg.raw.dataset_yaml import DatasetConfig

_SHOWN = 5
_GREYS_OF_COLOURS = 3


def label_error(counts: Mapping[int, int], where: str, config: DatasetConfig) -> DataError | None:
    """The error in a label's values, if there is one.

    Args:
        counts: pixels by stored label value.
        where: the file.
        config: classes, offset and ignored value.
    """
    outside = sorted(counts.keys() - config.label_values)
    if not outside:
        return None
    shown = ", ".join(str(value) for value in outside[:_SHOWN]) + (", ..." if len(outside) > _SHOWN else "")
    return DataError(
        where,
        f"label value outside the class list: {sum(counts[value] for value in outside)} px with {shown}; "
        f"expected {config.label_offset}-{config.last_label} for the {len(config.classes)} classes, "
        f"or {config.ignore_index} (ignored)",
        _hint(set(counts) - {config.ignore_index}, config),
    )


def _hint(values: set[int], config: DatasetConfig) -> str:
    """What to do, guessed from the values that occur."""
    num_classes = len(config.classes)
    if values <= {0, 255}:
        return "this looks like a 0/255 mask: store class values"
    if config.label_offset == 0 and min(values) >= 1 and max(values) == num_classes:
        return f"values seem to run 1-{num_classes}: set label_offset: 1"
    if config.label_offset == 0 and max(values) == num_classes:
        return f"if classes run 1-{num_classes} and 0 is unlabelled: set label_offset: 1 and ignore_index: 0"
    if config.label_offset > 0 and max(values) <= num_classes - 1:
        return f"values seem to run 0-{num_classes - 1}: set label_offset: 0"
    beyond = [value for value in values if value > config.last_label + 1]
    if len(beyond) >= _GREYS_OF_COLOURS and max(beyond) > 2 * (config.last_label + 1):
        return "these look like the greys of a colour mask: convert its colours to class values"
    return "fix the label, or classes, label_offset and ignore_index in dataset.yaml"
