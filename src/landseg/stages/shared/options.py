"""Options that several stages have, and what their values mean."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from landseg import storage
from landseg.cli import attempts
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError, StorageError, masked
from landseg.contracts.parameters import Group, add_parameter, check_value, split_list
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset

MAX_ARGUMENT_BYTES = 128 << 10
"""Of one argument of a process, on Linux: what a step of a pipeline gets from all workers of the step before is one."""


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


@contextlib.contextmanager
def writing(flag: str, folder: Path) -> Iterator[None]:
    """Say which folder it is, and what gave it, where files cannot be written to it.

    Raises:
        ConfigError: a file cannot be written: the disk is full, mostly.
    """
    try:
        yield
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise ConfigError(flag, f"{err.filename or folder} cannot be written: {reason}") from err


def add_common_arguments(parser: argparse.ArgumentParser, *, run_id: bool = True, files: bool = True) -> None:
    """Add the options that every stage of the pipeline has.

    Args:
        parser: the verb's.
        run_id: whether its results belong to a run.
        files: whether it leaves files, not parameters alone.
    """
    group = parser.add_argument_group("where things go")
    add_parameter(group, "storage_uri")
    if run_id:
        add_parameter(group, "run_id")
    if files:
        group.add_argument(
            "--output-dir", type=local_folder, metavar="DIR", help="also write the reference and any report here"
        )
    group.add_argument(
        "--scratch", type=local_folder, metavar="DIR", help="local folder for temporary files (default: $TMPDIR)"
    )
    group.add_argument(
        attempts.OPTION,
        type=attempts.number,
        default=1,
        metavar="N",
        help=f"begin up to N times, at most {attempts.MOST}: again after a failure that may pass (a killed process, "
        "an outage), never after a user error",
    )
    replaces = "; replaces --output-dir" if files else ""
    group.add_argument("--executor-input", metavar="JSON", help=f"what KFP passes as {{{{$}}}}{replaces}")


def add_cache_argument(group: Group) -> None:
    """Add the option of stages that read many images of a dataset."""
    group.add_argument(
        "--cache-bytes",
        type=int,
        metavar="N",
        help="the most that a dataset's shards from object storage take in --scratch (default: 3/4 of its free space)",
    )


def check_cache_bytes(value: int | None) -> None:
    """Refuse a `--cache-bytes` that is no size."""
    if value is not None and value < 1:
        raise ConfigError("--cache-bytes", f"expected at least 1, found {value}")


def add_network_arguments(group: Group) -> None:
    """Add the options of stages that predict: how the network computes, and what a model may import."""
    add_parameter(group, "export_precision")
    add_parameter(group, "batch_size")
    group.add_argument(
        "--trust-modules",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="import these Python modules for the types they register; a model's own custom_imports are not followed",
    )


def add_joint_maps_arguments(group: Group) -> None:
    """Add the options that put all label maps together."""
    group.add_argument("--mosaic", action="store_true", help="also write mosaic.tif, all label maps as one")
    group.add_argument(
        "--polygons", action="store_true", help="also write polygons.gpkg, the areas of each class in all label maps"
    )


def batch_size(text: str) -> int | None:
    """The value of `--batch-size`; None for `auto`.

    Raises:
        ConfigError: it is neither `auto` nor a number from 1.
    """
    check_value("batch_size", text)
    return None if text == "auto" else int(text)


def storage_root(given: str) -> str:
    """The root in object storage without a trailing slash; a folder as an absolute path.

    Raises:
        StorageError: it is neither, or empty.
    """
    return storage.folder(given)


def split_tiles(text: str, dataset: StagedDataset) -> dict[Split, TileIndex]:
    """The tiles of `--splits A,B`, by split in alphabetical order."""
    return {cast(Split, name): dataset.index(name) for name in sorted(split_list(text))}


def all_shares(num_shares: int) -> list[str]:
    """The `--worker` of each worker: `1/N` to `N/N`."""
    return [f"{share}/{num_shares}" for share in range(1, num_shares + 1)]


def check_handed_on(items: Sequence[Any], num_workers: int) -> None:
    """Refuse a list for the workers of the next step that does not fit into one argument.

    Args:
        items: what each worker of each model is given.
        num_workers: how many workers there are of each model.

    Raises:
        ConfigError: it is larger; the number that fits is in the message.
    """
    size = len(json.dumps(items).encode())
    if size > MAX_ARGUMENT_BYTES:
        fitting = num_workers * MAX_ARGUMENT_BYTES // size
        hint = f"ask for fewer: the list of them takes {size} bytes, and one argument of the next step at most 128 KiB"
        if not fitting:
            hint = f"shorten --storage-uri: a worker's URIs take {size // num_workers} bytes, an argument holds 128 KiB"
        raise ConfigError("--workers", f"expected at most {fitting}, found {num_workers}", hint)


def parse_share(text: str) -> tuple[int, int]:
    """Parse `--worker I/N`: the share of the work to do, counted from 1, and the number of shares."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    share, num_shares = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= share <= num_shares:
        raise ConfigError("--worker", f"expected I/N with I from 1 to N, found {text!r}")
    return share, num_shares
