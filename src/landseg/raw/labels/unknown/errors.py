"""One error for all label values, and one for all label colours, that mean nothing: of a label, and of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.labels.rule import UnknownLabels
from landseg.raw.labels.unknown.census import LabelCensus
from landseg.raw.labels.unknown.colours import about_colours
from landseg.raw.labels.unknown.values import about_values


class UnknownLabelsError(DataError):
    """A label holds values or colours that mean nothing.

    Attributes:
        labels: these values.
    """

    labels: UnknownLabels | None = None

    def __reduce__(self) -> tuple[Callable[..., DataError], tuple[object, ...]]:
        """Pickle with the values: errors cross process boundaries."""
        return _rebuilt, (self.where, self.problem, self.hint, self.labels)


def _rebuilt(where: str, problem: str, hint: str, labels: UnknownLabels | None) -> UnknownLabelsError:
    error = UnknownLabelsError(where, problem, hint)
    error.labels = labels
    return error


def unknown_labels_error(labels: UnknownLabels, where: str, config: DatasetConfig) -> UnknownLabelsError:
    """The error of one label."""
    census = LabelCensus()
    census.add(labels, where)
    return _rebuilt(where, *_describe(labels.kind, census, config, ""), labels)


def dataset_label_errors(
    errors: Sequence[tuple[UnknownLabels, str]], known: Mapping[int, int], config: DatasetConfig, source_uri: str
) -> list[DataError]:
    """One error for all unknown values of a dataset, and one for all unknown colours.

    Args:
        errors: the unknown values of each label, and its file.
        known: pixels by staged value in the labels without unknown values.
        config: `dataset.yaml`.
        source_uri: the dataset.
    """
    result: list[DataError] = []
    for kind in ("values", "colours"):
        of_kind = [(labels, where) for labels, where in errors if labels.kind == kind]
        census = LabelCensus(known=dict(known))
        for labels, where in of_kind:
            census.add(labels, where)
        if len(of_kind) == 1:
            result.append(DataError(of_kind[0][1], *_describe(kind, census, config, "")))
        elif of_kind:
            result.append(DataError(source_uri, *_describe(kind, census, config, source_uri)))
    return result


def _describe(kind: str, census: LabelCensus, config: DatasetConfig, source_uri: str) -> tuple[str, str]:
    """What is wrong and what to do."""
    about = about_colours if kind == "colours" else about_values
    return about(census, config, source_uri)
