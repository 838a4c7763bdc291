"""What the labels of a dataset show only together: palettes that contradict each other, values that no class has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from landseg.contracts.documents import Model
from landseg.contracts.errors import DataError
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.checked_tiles import CheckedTile
from landseg.raw.commands import python_command
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding, Findings
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.nodata import label_nodata_warnings
from landseg.raw.labels.palettes import LabelPalettes
from landseg.raw.labels.rule import LabelRule
from landseg.raw.labels.unknown.errors import dataset_label_errors
from landseg.raw.labels.unknown.proposals import flow_map, mask_map
from landseg.raw.sources.source import Source


class LabelFacts(Model):
    """What the labels of some tiles showed, for :class:`LabelFindings` of more of them.

    Attributes:
        num_no_value_px: pixels without a value.
        num_near_px: pixels of colours near to listed ones.
        num_overlap_px: pixels in polygons of several classes.
        nodata: (nodata value as text, labels that declare it): it may be no number.
        colours: (colour, index, first file) of palettes, in order of appearance.
    """

    num_no_value_px: int
    num_near_px: int
    num_overlap_px: int
    nodata: tuple[tuple[str, int], ...]
    colours: tuple[tuple[int, int, str], ...]


class LabelFindings:
    """Collects, tile by tile, what is to be said of all labels.

    Args:
        source: the raw dataset.
        config: its `dataset.yaml`.
    """

    def __init__(self, source: Source, config: DatasetConfig) -> None:
        self._source, self._config = source, config
        self._num_no_value_px = 0
        self._num_near_px = 0
        self._num_overlap_px = 0
        self._nodata: Counter[float] = Counter()
        self._palettes = LabelPalettes(config)

    def add(self, outcome: CheckedTile) -> None:
        """Take what one tile's label showed."""
        self._num_no_value_px += outcome.num_no_value_px
        self._num_near_px += outcome.num_near_px
        self._num_overlap_px += outcome.num_overlap_px
        if outcome.label_nodata is not None:
            self._nodata[outcome.label_nodata] += 1
        if outcome.used_colours and outcome.tile.label is not None:
            self._palettes.add(outcome.used_colours, self._source.where(outcome.tile.label.path))

    def facts(self) -> LabelFacts:
        """What the labels so far showed."""
        nodata = tuple((repr(value), count) for value, count in self._nodata.items())
        return LabelFacts(
            num_no_value_px=self._num_no_value_px,
            num_near_px=self._num_near_px,
            num_overlap_px=self._num_overlap_px,
            nodata=nodata,
            colours=tuple(self._palettes.used()),
        )

    def add_facts(self, facts: LabelFacts) -> None:
        """Take what the labels of further tiles showed."""
        self._num_no_value_px += facts.num_no_value_px
        self._num_near_px += facts.num_near_px
        self._num_overlap_px += facts.num_overlap_px
        for value, count in facts.nodata:
            self._nodata[float(value)] += count
        for colour, index, where in facts.colours:
            self._palettes.note(colour, index, where)

    def contradictions(self) -> Iterator[DataError]:
        """Palettes that contradict each other or `dataset.yaml`."""
        return self._palettes.errors(self._source.uri)

    def unsaid_masks(self, statistics: Mapping[str, SplitStatistics]) -> Iterator[DataError]:
        """Labels of 0 and 255 without a word of `dataset.yaml` about 255: of two classes, one would be ignored."""
        train, config = statistics.get("train"), self._config
        if train is None or config.says_what_is_ignored or set(train.label_counts) != {0, 255}:
            return
        problem = "the labels of train hold only 0 and 255, and 255 is ignored unless dataset.yaml says what it means"
        proposed = f"label_values: {flow_map(mask_map((0, 255), config.classes))}"
        action = f"write {proposed} in dataset.yaml; if 255 is no class, write ignore_index: 255"
        yield DataError(self._source.uri, problem, action)

    def one_class_alone(self, statistics: Mapping[str, SplitStatistics]) -> Iterator[DataError]:
        """One class in all labels of train, beside pixels without a value: is it these that are the other one?"""
        train, staged = statistics.get("train"), LabelRule(self._config).staged_classes
        found = [name for name, value in staged.items() if name and train and value in train.label_counts]
        if not self._num_no_value_px or self._config.shared_labels or len(found) != 1:
            return
        problem = (
            f"expected labels of train to hold two classes, found {found[0]} alone beside pixels without a value "
            "(transparent, NaN, masked), which are ignored"
        )
        flat = 'Image.alpha_composite(Image.new("RGBA", i.size, "black"), i).convert("RGB").save(sys.argv[1])'
        code = f'import sys; from PIL import Image; i = Image.open(sys.argv[1]).convert("RGBA"); {flat}'
        action = (
            f"store another class as a value or colour; of transparent PNGs, black: {python_command(code)} LABEL.png"
        )
        yield DataError(self._source.uri, problem, action)

    def nothing_labelled(self, statistics: Mapping[str, SplitStatistics]) -> Iterator[DataError]:
        """Not one pixel of train has a class, or no polygon lies on any image: there is nothing to learn from."""
        config, shared = self._config, self._config.shared_labels
        staged = LabelRule(config).staged_classes
        outside = None if config.labels is None or config.labels.outside in (None, IGNORE) else config.labels.outside
        found = {value for sums in statistics.values() for value in sums.label_counts}
        if config.labels is not None and config.labels.is_vector and found == {staged[outside]}:
            problem = f"expected polygons that lie on images, found none of those of {shared} on any"
            action = "compare their coordinates with the images': their CRS, and longitude before latitude"
            yield DataError(self._source.uri, problem, action)
        elif (train := statistics.get("train")) and set(train.label_counts) == {staged[None]}:
            problem = "expected labels of train to hold classes, found all of their pixels ignored"
            action = "say what the labels' values mean with label_values or ignore_index in dataset.yaml, or label them"
            yield DataError(self._source.uri, problem, action)

    def condense_unknown(self, findings: Findings, statistics: Iterable[SplitStatistics]) -> None:
        """One error for the labels of all splits: what is missing in dataset.yaml shows in all values together."""
        known: Counter[int] = Counter()
        for of_split in statistics:
            known.update(of_split.label_counts)
        errors = dataset_label_errors(findings.unknown_labels, known, self._config, self._source.uri)
        findings.condense_unknown_labels(errors)

    def remarks(self) -> list[Finding]:
        """What does not keep the dataset from being published."""
        found = []
        if self._num_no_value_px:
            sentence = f"{self._num_no_value_px} label px have no value (transparent, NaN, outside): they are ignored"
            found.append(Finding.note(sentence))
        if self._num_near_px:
            tolerance = self._config.colour_tolerance
            sentence = f"{self._num_near_px} label px have a colour within {tolerance} of one in label_colours"
            sentence += ": they have its class"
            found.append(Finding.note(sentence))
        if self._num_overlap_px:
            sentence = f"{self._num_overlap_px} label px lie in polygons of several classes: the last one counts"
            found.append(Finding.note(sentence))
        return [*found, *label_nodata_warnings(self._nodata, self._config)]
