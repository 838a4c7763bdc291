"""Commands in error lines, built from names of files that others chose, to be pasted into a shell."""

from __future__ import annotations

import shlex

_CUT_PX = 4096


def quoted(*words: str) -> str:
    """Words of a command that a shell takes as they are, whatever they hold."""
    return " ".join(map(shlex.quote, words))


def python_command(code: str, *names: str) -> str:
    """What runs some code on files.

    Args:
        code: reads the names from `sys.argv[1:]`, as none may become code; single quotes in it are hard to read.
        names: of the files.
    """
    return f"python -c {quoted(code, *names)}"


def file_name(where: object) -> str:
    """What commands call a file: they are to be run in its folder."""
    return str(where).rpartition("/")[2]


def cutting_command(where: object) -> str:
    """What cuts an image or a label into files of `_CUT_PX`, called after it and the first row and column of each.

    GDAL's `vrt://` carries over what belongs to the pixels: mask, palette, nodata, place, control points and RPCs. What
    is not PNG, BMP or GIF becomes a TIFF, because other formats lose values, or cannot be written.
    """
    options = '{"driver": f.driver} if keep else {"driver": "GTiff", "compress": "zstd"}'
    window = "{x},{y},{min(n, f.width - x)},{min(n, f.height - y)}"
    # In one piece it would look like an address with a query, which error lines mask.
    part = f'"vrt://" + name + f"?srcwin={window}"'
    copied = f'rasterio.shutil.copy({part}, f"{{stem}}_{{y}}_{{x}}{{suffix}}", **options)'
    code = (
        f"import os, rasterio.shutil, sys; name = sys.argv[1]; f = rasterio.open(name); n = {_CUT_PX}; "
        'keep = f.driver in ("PNG", "BMP", "GIF"); stem, suffix = os.path.splitext(name); '
        f'suffix = suffix if keep else ".tif"; options = {options}; '
        f"[{copied} for y in range(0, f.height, n) for x in range(0, f.width, n)]"
    )
    return python_command(code, file_name(where))
