"""Reading labels in the ways in which people store them."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from gdal_files import write_gdal
from PIL import Image

from landseg.contracts.errors import DataError
from landseg.raw.labels.files import read_label

VALUES = np.random.default_rng(0).integers(0, 2, (7, 9)).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    return imagecodecs.png_encode(np.ascontiguousarray(array))


def pillow(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"metadata": None, "photometric": "minisblack", **options})
    return buffer.getvalue()


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, which Pillow writes only in part."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bits = np.unpackbits(values[..., None], axis=2)[:, :, 8 - depth :].reshape(len(values), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def made_by(writer: str, image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, writer, **options)
    return buffer.getvalue()


def with_alpha(values: np.ndarray, alpha: int | np.ndarray) -> np.ndarray:
    return np.dstack([values, np.broadcast_to(np.asarray(alpha, values.dtype), VALUES.shape)])


FILES = {
    "8-bit grey PNG": (pillow(Image.fromarray(VALUES)), True),
    "1-bit PNG": (pillow(Image.fromarray(VALUES.astype(bool))), False),
    "2-bit PNG": (grey_png(VALUES, 2), False),
    "4-bit PNG": (grey_png(VALUES, 4), False),
    "16-bit PNG": (png(VALUES.astype(np.uint16)), False),
    "PNG with opaque alpha": (png(with_alpha(VALUES, 255)), False),
    "16-bit PNG with opaque alpha": (png(with_alpha(VALUES.astype(np.uint16), 65535)), False),
    "grey PNG with a transparent value": (pillow(Image.fromarray(VALUES), transparency=1), True),
    "uint8 TIFF": (tiff(VALUES), True),
    "uint16 TIFF": (tiff(VALUES.astype(np.uint16)), True),
    "1-bit TIFF": (tiff(VALUES.astype(bool), bitspersample=1), False),
    **{
        f"{dtype} TIFF": (tiff(VALUES.astype(dtype), compression="zlib", predictor=dtype != "int64"), False)
        for dtype in ("int8", "int16", "uint32", "int32", "int64", "float32", "float64")
    },
    "TIFF with opaque alpha": (
        tiff(with_alpha(VALUES, 255), extrasamples=["unassalpha"], planarconfig="contig"),
        False,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_values_are_what_was_stored(name):
    data, is_plain = FILES[name]
    label = read_label(data, "x")
    np.testing.assert_array_equal(label.values, VALUES)
    assert (label.kind, label.is_plain, label.no_data) == ("values", is_plain, None)


def test_every_value_of_a_depth_is_read():
    for depth in (1, 2, 4):
        values = np.arange(2**depth, dtype=np.uint8)[np.newaxis]
        np.testing.assert_array_equal(read_label(grey_png(values, depth), "x").values, values)
    wide = np.array([[-1, 0, 300, 2**31 - 1, -(2**31)]], np.int32)
    np.testing.assert_array_equal(read_label(tiff(wide), "x").values, wide)


def test_indexes_come_with_their_colours():
    palette = [[0, 0, 0], [10, 20, 30], [40, 50, 60]]
    image = Image.fromarray(VALUES, "P")
    image.putpalette(np.ravel(palette).tolist())
    map16 = np.zeros((3, 256), np.uint16)
    map16[:, :3] = np.transpose(palette) * np.uint16(257)
    for data in (pillow(image, transparency=0), tiff(VALUES, photometric="palette", colormap=map16)):
        label = read_label(data, "x")
        assert (label.kind, label.is_plain) == ("indexes", True)
        np.testing.assert_array_equal(label.values, VALUES)
        np.testing.assert_array_equal(label.palette[:3], palette)


@pytest.mark.parametrize("alpha", [None, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours(alpha, dtype):
    colours = np.array([[255, 0, 16], [1, 2, 3]], np.uint8)[VALUES]
    stored = colours if alpha is None else np.dstack([colours, np.full(VALUES.shape, alpha, np.uint8)])
    stored = stored.astype(dtype) * dtype(1 if dtype is np.uint8 else 257)
    options = {} if alpha is None else {"extrasamples": ["unassalpha"]}
    planar = tiff(np.moveaxis(stored, 2, 0), photometric="rgb", planarconfig="separate", **options)
    for data in (png(stored), tiff(stored, photometric="rgb", **options), planar):
        label = read_label(data, "x")
        assert (label.kind, label.is_plain, label.no_data) == ("colours", False, None)
        np.testing.assert_array_equal(label.values, np.array([0xFF0010, 0x010203])[VALUES])


def test_black_and_opaque_is_a_colour():
    black = np.zeros((7, 9, 4), np.uint8)
    black[..., 3] = 255
    label = read_label(tiff(black, photometric="rgb", extrasamples=["unassalpha"]), "x")
    assert (label.kind, label.no_data, label.values.any()) == ("colours", None, False)


def test_other_formats_and_compressions_without_losses():
    indexed = Image.fromarray(VALUES, "P")
    indexed.putpalette([9, 9, 9, 200, 0, 0])
    for writer in ("BMP", "GIF"):
        label = read_label(made_by(writer, indexed), "x")
        assert label.kind == "indexes"
        np.testing.assert_array_equal(label.values, VALUES)
        np.testing.assert_array_equal(label.palette[:2], [[9, 9, 9], [200, 0, 0]])
    lossless = read_label(made_by("WEBP", indexed.convert("RGB"), lossless=True), "x")
    np.testing.assert_array_equal(lossless.values, np.array([0x090909, 0xC80000])[VALUES])
    np.testing.assert_array_equal(read_label(made_by("JPEG2000", Image.fromarray(VALUES)), "x").values, VALUES)
    np.testing.assert_array_equal(read_label(tiff(VALUES, compression="lerc"), "x").values, VALUES)


def test_pixels_without_a_value():
    label = read_label(png(with_alpha(VALUES, 255 * VALUES)), "x")
    np.testing.assert_array_equal(label.no_data, VALUES == 0)
    label = read_label(tiff(np.where(VALUES, np.float32(1), np.float32(np.nan))), "x")
    np.testing.assert_array_equal(label.no_data, VALUES == 0)


@pytest.mark.parametrize("how", ["plain", "palette", "float"])
def test_pixels_that_the_mask_of_a_tiff_leaves_out(how, tmp_path):
    path, has_label = tmp_path / "a.tif", np.arange(9)[np.newaxis].repeat(7, axis=0) > 3
    options = {"palette": {"photometric": "palette"}}.get(how, {})
    values = VALUES.astype(np.float32 if how == "float" else np.uint8)
    write_gdal(path, values[..., None], mask=has_label, **options)
    label = read_label(path.read_bytes(), "x")
    np.testing.assert_array_equal(label.values, VALUES)
    np.testing.assert_array_equal(label.no_data, ~has_label)
    assert not label.is_plain
    write_gdal(path, values[..., None], mask=np.ones_like(has_label), **options)
    assert read_label(path.read_bytes(), "x").no_data is None


REFUSED = {
    "a JPEG": (imagecodecs.jpeg_encode(np.dstack([VALUES] * 3)), "found a JPEG, whose compression changes them"),
    "a JPEG in a TIFF": (tiff(np.zeros((16, 16), np.uint8), compression="jpeg"), "compressed as JPEG"),
    "a WebP": (imagecodecs.webp_encode(np.zeros((16, 16, 3), np.uint8), lossless=False), "found a WebP"),
    "a lossy JPEG 2000": (
        made_by("JPEG2000", Image.fromarray(VALUES * 255), irreversible=True, quality_layers=[20]),
        "found a JPEG 2000, whose compression changes them",
    ),
    "smoothed edges": (png(with_alpha(VALUES, 128)), "63 px in between"),
    "fractions": (tiff(VALUES + np.float32(0.5)), "63 px with others, the first"),
    "infinity": (tiff(np.full((3, 3), np.inf, np.float32)), "9 px with others, the first inf"),
    "16-bit colours": (png(np.full((3, 3, 3), 1, np.uint16)), "expected colours of 8 bits"),
    "one band per class": (tiff(np.zeros((5, 9, 9), np.uint8), planarconfig="separate"), "found 5 bands"),
    "complex values": (tiff(VALUES.astype(np.complex64)), "expected class values or colours"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_label_is_refused(name):
    data, expected = REFUSED[name]
    with pytest.raises(DataError) as caught:
        read_label(data, "x.tif")
    assert expected in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", FILES)
def test_damage_is_noticed(name):
    data, _ = FILES[name]
    with pytest.raises(DataError):
        read_label(data[: len(data) * 2 // 3], "x")


def test_sizes_are_limited_before_decoding():
    with pytest.raises(DataError, match="at most 0 MiB decoded"):
        read_label(png(np.zeros((90, 90, 3), np.uint8)), "x", limit=1000)
    with pytest.raises(DataError, match="at most 0 MiB decoded"):
        read_label(tiff(np.zeros((90, 90), np.int32)), "x", limit=1000)
