"""Where datasets and their shards lie below the root in object storage."""

from __future__ import annotations

from landseg import storage


def datasets_folder(root: str) -> str:
    """The folder that holds all datasets, their shards, and what is noted of them."""
    return storage.join(root, "datasets")


def shards_folder(root: str) -> str:
    """The folder of the shards, which datasets share, and of records of the work on them."""
    return storage.join(datasets_folder(root), "shards")


def manifest_uri(root: str, dataset_id: str) -> str:
    """The URI of a dataset's manifest."""
    return storage.join(datasets_folder(root), dataset_id, "manifest.json")
