"""Options that several stages have, and what their values mean."""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import cast

from landseg import storage
from landseg.contracts.choices import PRECISION_CHOICES
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError, StorageError, masked
from landseg.contracts.parameters import Group, add_parameter, split_list
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset


def local_folder(text: str) -> Path:
    """The value of a flag that is a local folder: neither an unset variable nor a URI is one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a folder, found nothing")
    try:
        is_local = not storage.is_s3(text)
    except StorageError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    if not is_local:
        raise argparse.ArgumentTypeError(f"expected a local folder, found {masked(text)}")
    return Path(text)


def check_writable(flag: str, folder: Path, hint: str = "") -> None:
    """Make a folder, and see before the work begins whether it can be written.

    Args:
        flag: what gave it, for the error line.
        folder: the local folder.
        hint: what to do about it.

    Raises:
        ConfigError: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise ConfigError(flag, f"expected a folder that can be written, found {folder}: {reason}", hint) from err


def add_common_arguments(parser: argparse.ArgumentParser, *, run_id: bool = True) -> None:
    """Add the options that every stage of the pipeline has."""
    group = parser.add_argument_group("where things go")
    add_parameter(group, "storage_uri")
    if run_id:
        add_parameter(group, "run_id")
    group.add_argument(
        "--output-dir",
        type=local_folder,
        metavar="DIR",
        help="also write the stage's report and manifest reference here",
    )
    group.add_argument(
        "--scratch", type=local_folder, metavar="DIR", help="local folder for temporary files (default: $TMPDIR)"
    )
    group.add_argument("--executor-input", metavar="JSON", help="what KFP passes as {{$}}; replaces --output-dir")


def add_cache_argument(group: Group) -> None:
    """Add the option of stages that read many images of a dataset."""
    group.add_argument(
        "--cache-bytes",
        type=int,
        metavar="N",
        help="the most that shards of a dataset in object storage take in the scratch folder "
        "(default: three quarters of what its volume has room for)",
    )


def check_cache_bytes(value: int | None) -> None:
    """Refuse a `--cache-bytes` that is no size."""
    if value is not None and value < 1:
        raise ConfigError("--cache-bytes", f"expected at least 1, found {value}")


def add_network_arguments(group: Group) -> None:
    """Add the options of stages that predict: how the network computes, and what a model may import."""
    group.add_argument(
        "--precision",
        choices=PRECISION_CHOICES,
        default="auto",
        help="of the network; auto is the smallest that the device computes in natively",
    )
    group.add_argument("--batch-size", type=int, default=4, metavar="N", help="tiles predicted together")
    group.add_argument(
        "--trust-modules",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="import these Python modules for the types they register; a model's own custom_imports are not followed",
    )


def storage_root(given: str) -> str:
    """The root in object storage without a trailing slash; a folder as an absolute path.

    Raises:
        StorageError: it is neither, or empty.
    """
    return storage.folder(given)


def split_tiles(text: str, dataset: StagedDataset) -> dict[Split, TileIndex]:
    """The tiles of `--splits A,B`, by split in alphabetical order."""
    return {cast(Split, name): dataset.index(name) for name in sorted(split_list(text))}


def parse_share(text: str) -> tuple[int, int]:
    """Parse `--worker I/N`: the share of the work to do, counted from 1, and the number of shares."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    share, num_shares = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= share <= num_shares:
        raise ConfigError("--worker", f"expected I/N with I from 1 to N, found {text!r}")
    return share, num_shares
