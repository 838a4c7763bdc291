"""GDAL, confined: it opens bytes that this process hands it, by the drivers that are listed, and reaches no other file.

Imported only where a file needs it: rasterio takes a second to load.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landseg.contracts.errors import DataError
from landseg.raw.images.formats import check_one_image, driver_of
from landseg.raw.sources.file_start import read_start

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

NO_NETWORK = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # no address is the one that may be fetched
    "GDAL_HTTP_PROXY": "none://none",  # other drivers than /vsicurl/ fetch through a proxy, which curl does not know
    "GDAL_HTTPS_PROXY": "none://none",
}
"""Settings with which GDAL opens no connection, whatever a file refers to."""
_SETTINGS: dict[str, Any] = {
    **NO_NETWORK,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no other file belongs to the one that is opened
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",  # libjpeg fills what is missing with grey, and warns
    "GDAL_CACHEMAX": 64 << 20,  # bytes of decoded blocks per process; the default is 5 % of the machine's memory
    "GDAL_NUM_THREADS": "1",
}
_OWN_NAMES = re.compile(r"'?(/vsimem/[^\s',:]*|[0-9a-f-]{32,36}\.dat|0x[0-9a-f]{6,})'?[,:]?\s*")


@contextlib.contextmanager
def mounted(folder: str, contents: Sequence[bytes]) -> Iterator[None]:
    """Have bytes lie at paths of their own, see :func:`mounted_path`, that only GDAL in this process sees."""
    with contextlib.ExitStack() as stack:
        for number, data in enumerate(contents):
            memory = load().MemoryFile(data, dirname=folder, filename=f"{number}.dat")
            stack.enter_context(memory)
        yield


def mounted_path(folder: str, number: int) -> str:
    """Where the file of this number lies for GDAL."""
    return f"/vsimem/{folder}/{number}.dat"


def load() -> Any:
    """Rasterio, which then neither logs nor warns: what GDAL says about a file is reported in one line."""
    # OpenJPEG's own threads would print what goes wrong; GDAL's handler of errors belongs to the thread that asks.
    os.environ["OPJ_NUM_THREADS"] = "0"
    import rasterio

    logging.getLogger("rasterio").setLevel(logging.CRITICAL + 1)
    return rasterio


@contextlib.contextmanager
def confined() -> Iterator[Any]:
    """Rasterio, for as long as it may reach nothing but what it is handed."""
    rasterio = load()
    with rasterio.Env(**_SETTINGS):
        yield rasterio


@contextlib.contextmanager
def opened_bytes(data: bytes, driver: str, where: object) -> Iterator[DatasetReader]:
    """Open one file of which the bytes are in memory.

    Raises:
        DataError: damaged.
    """
    check_one_image(data, driver, where)
    with (
        confined() as rasterio,
        damage_is_reported(where),
        rasterio.MemoryFile(data, ext=".dat") as memory,
        memory.open(driver=driver, sharing=False) as dataset,
    ):
        yield dataset


def check_file(path: Path, where: object) -> None:
    """Refuse a local file that is not one image; see :func:`check_one_image`."""
    with path.open("rb") as file:
        if driver := driver_of(file.read(4096)):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
                check_one_image(pages, driver, where)


@contextlib.contextmanager
def opened_file(path: Path, drivers: Sequence[str], where: object) -> Iterator[DatasetReader]:
    """Open a local file that is too large to hold in memory, by one of some drivers.

    Raises:
        DataError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    driver = driver_of(start)
    if driver not in drivers:
        found, action = read_start(start)
        raise DataError(where, f"expected a raster ({', '.join(drivers)}), found {found}", action or "convert it")
    with (
        confined() as rasterio,
        damage_is_reported(where),
        rasterio.open(path, driver=driver, sharing=False) as dataset,
    ):
        yield dataset


@contextlib.contextmanager
def _without_log_failures() -> Iterator[None]:
    """Keep Python from printing that rasterio's log handler failed, as it does on messages that are not UTF-8."""
    before, printing = sys.unraisablehook, sys.excepthook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if "rasterio" not in str(unraisable.object):
            before(unraisable)

    # Cython prints such an error, by excepthook, before it reports it; no other is printed while GDAL is at work.
    sys.unraisablehook, sys.excepthook = hook, lambda *_: None
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = before, printing


@contextlib.contextmanager
def damage_is_reported(where: object) -> Iterator[None]:
    """Whatever GDAL raises becomes an error of the file."""
    try:
        with warnings.catch_warnings(), _without_log_failures():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as err:  # whatever GDAL and rasterio raise on damaged bytes, the file is at fault
        if codec := re.search(r"missing codec (?:for )?(\w+)", f"{err.__cause__} {err}"):
            problem = f"the compression {codec[1]} is not supported by the GDAL that is installed"
            raise DataError(where, problem, "write it again with the compression ZSTD or Deflate") from err
        reason = _OWN_NAMES.sub("", str(err.__cause__ or err)).splitlines() or [""]
        problem = f"the image is truncated or damaged: {reason[0][:120]}"
        raise DataError(where, problem, "copy or write the file again") from err
