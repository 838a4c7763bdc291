"""How to stage, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from landseg import storage
from landseg.contracts.dataset import DatasetManifest
from landseg.contracts.tile import GeoKeys
from landseg.dataset.staging.review.review import Review
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Findings
from landseg.raw.images.values import Kind


@dataclass(frozen=True)
class Options:
    """How to stage.

    Attributes:
        shard_bytes: target size of a shard.
        num_processes: processes that decode.
        on_bad_tile: whether a bad tile fails the staging or is left out.
        max_bad: with `skip`, more bad tiles than this fail it all the same.
        for_models: whether models are to be trained on the dataset. Where it is only predicted, its own scale is of no
            interest: each model brings one.
        code: a digest of the code that stages: what other code has recorded is not used.
        share, num_shares: which share of the ranges to stage, counted from 1.
        joins: whether a worker that then finds all ranges recorded joins them and publishes.
        timeout_s: after which the pipeline ends the step; None where none runs it.
    """

    shard_bytes: int
    num_processes: int
    on_bad_tile: Literal["fail", "skip"] = "fail"
    max_bad: int = 10
    for_models: bool = True
    code: str = ""
    share: int = 1
    num_shares: int = 1
    joins: bool = True
    timeout_s: int | None = None


@dataclass
class StagingResult:
    """What staging found and did.

    Attributes:
        config: `dataset.yaml`.
        kind: bands and type of the images; None where none could be read.
        findings: errors and notes. With a manifest, the errors are those of the tiles that were left out.
        loaded: the published manifest; None where errors kept it from being published, or shares are not joined.
        statistics: by split.
        review: what looks suspicious.
        uploaded_bytes: bytes of shards that were not there before.
        unjoined: why the shares of several workers were not joined, where that alone kept it from being published.
    """

    config: DatasetConfig
    kind: Kind | None
    findings: Findings
    loaded: storage.Loaded[DatasetManifest] | None = None
    statistics: dict[str, SplitStatistics] = field(default_factory=dict)
    review: Review = field(default_factory=Review)
    uploaded_bytes: int = 0
    unjoined: str = ""

    def begin(self, findings: Findings, crs: Sequence[GeoKeys]) -> None:
        """Take findings, and no tile so far; `crs` are the coordinate reference systems that tiles will refer to."""
        self.findings, self.statistics, self.review = findings, {}, Review(crs)
