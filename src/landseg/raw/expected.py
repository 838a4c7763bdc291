"""What a tile must be, and how its values are stored."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from landseg.contracts.dataset import Scale
from landseg.contracts.documents import digest
from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.images.band_tags import BandTags, check_order
from landseg.raw.images.values import Conversion, Kind
from landseg.raw.labels.rule import LabelRule
from landseg.raw.labels.shared import SharedLabels
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.tile_files import TileFiles


@dataclass(frozen=True)
class Expected:
    """What a tile must be, and how its values are stored.

    Attributes:
        config: `dataset.yaml`.
        kind: what most images are; None where none could be read.
        conversion: from the images' values to stored ones; None where they are stored as they are.
        measured: the scale of the selected bands in the images' values, if it was measured before anything is staged.
        shared_labels: the labels of all images, if they are one file.
    """

    config: DatasetConfig
    kind: Kind | None
    conversion: Conversion | None = None
    measured: Scale | None = None
    shared_labels: SharedLabels | None = None

    @property
    def bands(self) -> tuple[int, ...]:
        """The selected bands, 1-based."""
        assert self.kind is not None, "bands are selected once the kind is known"
        return self.config.selected_bands(self.kind.num_bands, self.kind.alpha)

    @functools.cached_property
    def tags(self) -> BandTags:
        """What most images say of their bands; where `dataset.yaml` names the same ones, in its order."""
        assert self.kind is not None, "bands are called something once the kind is known"
        found, names = self.kind.tags, self.config.band_names or ()
        is_same = sorted(name.lower() for name in names) == sorted(name.lower() for name in found.names)
        return found._replace(names=names) if names and is_same else found

    @functools.cached_property
    def label_rule(self) -> LabelRule:
        """What labels are staged as."""
        return LabelRule(self.config)

    def source_checksums(self, tile: SourceTile, files: TileFiles) -> tuple[str, str | None]:
        """SHA-256 of the files that a tile's image and label come from; None in place of the label's without one."""
        image, label = files
        if tile.shares_label and self.shared_labels:
            return image.sha256, self.shared_labels.sha256
        return image.sha256, label.sha256 if label else None

    @property
    def scale(self) -> Scale | None:
        """The scale of the selected bands in the images' values, where it is known before anything is staged."""
        return self.measured or self.config.scale_for(len(self.bands))

    @property
    def has_own_rules(self) -> bool:
        """Whether `dataset.yaml` changes how a plain TIFF is stored, or nothing is stored as it is."""
        if self.config.labels is not None:
            return True
        return self.conversion is not None or self.config.nodata is not None or self.config.alpha == "mask"

    @property
    def rules(self) -> str:
        """A digest of what decides, besides the files, which bytes are stored."""
        nodata, conversion, labels = self.config.nodata, self.conversion, self.config.labels
        return digest(
            {
                **({} if labels is None else {"label_source": labels.model_dump(mode="json")}),
                "nodata": list(nodata) if isinstance(nodata, tuple) else nodata,
                "alpha": self.config.alpha,
                "bands": list(self.bands),
                "conversion": conversion and [conversion.source, list(conversion.first), list(conversion.step)],
                "ignored": self.label_rule.ignored,
                "labels": self.config.label_map and self.config.label_map.model_dump(mode="json"),
                "palette": self.config.palette and [list(colour) for colour in self.config.palette],
            }
        )


def check_kind(kind: Kind, where: object, expected: Expected) -> None:
    """Refuse an image that is not like most of them."""
    if expected.kind is None:
        return
    if not kind.is_like(expected.kind):
        problem = f"expected {expected.kind}, as in most images, found {kind}"
        raise DataError(where, problem, "convert it like them, or move it out")
    check_order(kind.tags, expected.tags, expected.bands, where)
