"""A raw dataset as a listing of its files shows it, before any tile is read."""

from __future__ import annotations

from dataclasses import dataclass

from landseg.raw.dataset_yaml import FILE_NAME, DatasetConfig, parse_config
from landseg.raw.pairing import Pairing, pair
from landseg.raw.sources import Source


@dataclass(frozen=True)
class RawDataset:
    """A source, its description and its tiles.

    Attributes:
        source: where the files are.
        fingerprint: see :meth:`Source.fingerprint`.
        config: `dataset.yaml`.
        pairing: the tiles by split, and what there is to say about the files.
    """

    source: Source
    fingerprint: str | None
    config: DatasetConfig
    pairing: Pairing

    @classmethod
    def open(cls, source: Source) -> RawDataset:
        """List a source.

        Raises:
            DataError: there is no dataset, or its `dataset.yaml` is wrong.
            ContractError: `dataset.yaml` is not YAML.
            StorageError: object storage cannot be reached or refuses.
        """
        fingerprint = source.fingerprint()  # first: what changes from here on shows the next time
        files = source.files()
        config = parse_config(source.config(files), source.where(FILE_NAME))
        return cls(source, fingerprint, config, pair(source, files))
