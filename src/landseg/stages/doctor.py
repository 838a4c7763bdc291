"""`landseg doctor`: is this machine, or this image, fit to run a stage?"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from landseg import __version__, storage
from landseg.contracts.errors import ConfigError, LandsegError

HELP = "check versions, compiled ops, GPUs, shared memory, scratch space and object storage"
EXAMPLE = "landseg doctor --gpus 2 --min-shm-gb 8 --storage-uri s3://bucket/landseg"

PACKAGES = (
    *("numpy", "boto3", "tifffile", "imagecodecs", "rasterio", "pyogrio", "zarr"),
    *("torch", "torchvision", "mmcv-full", "mmcv", "mmsegmentation"),
)
_GIB = 1 << 30


@dataclass(frozen=True)
class CheckResult:
    """What one check found; `ok` is None if it could not fail."""

    check: str
    ok: bool | None
    found: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--storage-uri", metavar="URI", help="also write, read, list and delete an object below this URI"
    )
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="fail if there are fewer GPUs")
    parser.add_argument("--min-shm-gb", type=float, default=0, metavar="GB", help="fail if /dev/shm is smaller")
    parser.add_argument("--min-scratch-gb", type=float, default=0, metavar="GB", help="fail if less scratch is free")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> None:
    """Print what was found.

    Raises:
        ConfigError: a check failed; the message lists all that failed.
    """
    for option in ("gpus", "min_shm_gb", "min_scratch_gb"):
        value = getattr(args, option)
        if not 0 <= value < math.inf:  # less than nan, nothing is
            raise ConfigError(f"--{option.replace('_', '-')}", f"expected at least 0, found {value}")
    results = list(examine(args))
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        for result in results:
            mark = {True: "ok", False: "FAILED", None: "-"}[result.ok]
            print(f"{mark:7}{result.check:16}{result.found}")
    failed = [f"{result.check}: {result.found}" for result in results if result.ok is False]
    if failed:
        raise ConfigError("this machine", "; ".join(failed))


def examine(args: argparse.Namespace) -> Iterator[CheckResult]:
    """Run the checks one after the other."""
    yield CheckResult("landseg", None, f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    versions = {name: _version(name) for name in PACKAGES}
    yield CheckResult("packages", None, ", ".join(f"{name} {version}" for name, version in versions.items() if version))
    if versions["torch"]:
        yield _guarded("compiled ops", lambda: _compiled_ops(required=bool(versions["mmcv-full"])))
        yield _guarded("GPUs", lambda: _gpus(args.gpus))
    elif args.gpus:
        yield CheckResult("GPUs", False, "torch is not installed here")
    yield _space("/dev/shm", Path("/dev/shm"), args.min_shm_gb, total=True)
    yield _space("scratch", Path(os.environ.get("TMPDIR") or tempfile.gettempdir()), args.min_scratch_gb, total=False)
    if args.storage_uri:
        yield _guarded("object storage", lambda: _storage(args.storage_uri))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _guarded(check: str, examine_one: Callable[[], tuple[bool | None, str]]) -> CheckResult:
    """Run a check; one that raises has failed, and must not hide the others."""
    try:
        ok, found = examine_one()
    except LandsegError as err:
        ok, found = False, str(err)
    except Exception as err:  # whatever a damaged installation raises
        ok, found = False, f"{type(err).__name__}: {err}"
    return CheckResult(check, ok, found)


def _compiled_ops(*, required: bool) -> tuple[bool | None, str]:
    from landseg.models import compat

    if not compat.has_compiled_ops():
        if required:
            return False, "mmcv-full is installed without its compiled extension"
        return None, "none: pure-Python mmcv, enough for the bundled models"
    return True, compat.run_compiled_op()


def _gpus(expected: int) -> tuple[bool | None, str]:
    from landseg.models import compat

    names = compat.gpu_names()
    found = f"{len(names)}: {', '.join(names)}" if names else "none"
    if len(names) < expected:
        return False, f"expected {expected}, found {found}"
    return None if not expected else True, found


def _space(check: str, folder: Path, minimum_gb: float, *, total: bool) -> CheckResult:
    if not folder.is_dir():
        return CheckResult(check, False if minimum_gb else None, f"{folder} does not exist")
    usage = shutil.disk_usage(folder)
    gb = (usage.total if total else usage.free) / _GIB
    found = f"{gb:.1f} GiB {'' if total else 'free '}in {folder}"
    if gb < minimum_gb:
        return CheckResult(check, False, f"expected {minimum_gb:g} GiB, found {found}")
    return CheckResult(check, True if minimum_gb else None, found)


def _storage(root: str) -> tuple[bool, str]:
    """Try each permission that stages need separately: credentials that may write but not delete are common."""
    uri = storage.join(root, f".landseg-doctor-{uuid.uuid4().hex}", "probe")
    data = os.urandom(1 << 10)
    storage.put_bytes(uri, data)  # where this fails, the others could not be tried
    failed = []
    attempts: dict[str, tuple[Callable[[], object], object]] = {
        "read": (lambda: storage.get_bytes(uri), data),
        "list": (lambda: len(list(storage.list_objects(storage.parent(uri)))), 1),
        "delete": (partial(storage.delete, uri), None),
    }
    for permission, (attempt, expected) in attempts.items():
        try:
            if attempt() != expected:
                failed.append(f"cannot {permission} {uri}: found something other than what was written")
        except LandsegError as err:
            failed.append(f"cannot {permission} {err}")
    return not failed, "; ".join(failed) or f"{root}: wrote, read, listed and deleted an object"
