"""Decoding images and labels: every supported layout to the same array, everything else refused."""

from __future__ import annotations

import io
import itertools
import resource
import zipfile
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from make_foreign_tiffs import ARCHIVE, pattern
from PIL import Image
from raw_tiles import random_image

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ContractError, DataError
from landseg.dataset.stored_values import to_class_ids
from landseg.raw.tiff.decoding import decode_image, decode_label


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def png(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "adobe_deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_every_layout_decodes_to_the_same_array(compression, planar):
    layouts = itertools.product(
        ["uint8", "uint16"],
        [3] if compression == "lzma" else [1, 3, 4, 16],  # its encoder is slow
        [{}, {"tile": (16, 32)}, {"rowsperstrip": 7}],
        ["<", ">"],
        [False, True],
        [1, 2],
    )
    for dtype, bands, segments, byteorder, big, predictor in layouts:
        image = random_image(3, 40, bands, dtype)[:, :37]
        if compression in (None, "packbits") and predictor == 2:
            continue
        stored = image if planar == "contig" else np.ascontiguousarray(image.transpose(2, 0, 1))
        if bands == 1:
            stored = image[:, :, 0]
        options = {"planarconfig": planar} if bands > 1 else {}
        data = tiff(
            stored,
            compression=compression,
            byteorder=byteorder,
            bigtiff=big,
            predictor=predictor if predictor == 2 else None,
            **segments,
            **options,
        )
        decoded = decode_image(data, "x")
        assert decoded.dtype == image.dtype
        assert decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, image, strict=True)


def test_jpeg_in_tiff():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], -1)
    for options in ({}, {"tile": (32, 32)}, {"rowsperstrip": 16}):
        data = tiff(image, compression="jpeg", photometric="rgb", compressionargs={"level": 95}, **options)
        assert np.abs(decode_image(data, "x").astype(int) - image).mean() < 3


def test_files_of_other_programs():
    """GDAL, libtiff's tools and ImageMagick: exactly what was written, or nearly so where it is a JPEG."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert len(archive.namelist()) > 100
        for name in archive.namelist():
            bands, dtype, what = name.removesuffix(".tif").split("-", 2)
            image = decode_image(archive.read(name), name)
            expected = pattern(int(bands), dtype)
            assert (image.shape, image.dtype) == (expected.shape, expected.dtype), name
            difference = np.abs(image.astype(int) - expected)
            assert difference.max() <= (6 if "jpeg" in what else 0), name


@pytest.mark.parametrize(("compression", "payload"), [(50000, imagecodecs.zstd_encode), (8, zlib.compress)])
def test_a_strip_that_unfolds_to_far_more_than_its_size(compression, payload):
    buffer = io.BytesIO()
    strips = iter([payload(bytes(1 << 26))])
    options = {"shape": (16, 16), "dtype": np.uint8, "compression": compression, "rowsperstrip": 16}
    tifffile.imwrite(buffer, strips, photometric="minisblack", metadata=None, **options)
    assert len(buffer.getvalue()) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="truncated or damaged"):
        decode_image(buffer.getvalue(), "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_parts_that_were_never_written_are_not_filled_in():
    data = bytearray(tiff(random_image(1, 64), photometric="rgb", rowsperstrip=16))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for code in (273, 279):
            tag = file.pages.first.tags[code]
            size = tag.valuebytecount // 4
            data[tag.valueoffset + size : tag.valueoffset + 2 * size] = bytes(size)
    with pytest.raises(DataError, match="1 of 4 parts of the TIFF were never written"):
        decode_image(bytes(data), "x")


@pytest.mark.parametrize("subfiletype", [0, 2])
@pytest.mark.parametrize("side", [64, 16])
def test_a_second_image_is_not_left_out_silently(subfiletype, side):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(random_image(1, 64), photometric="rgb", metadata=None)
        writer.write(random_image(2, side), photometric="rgb", subfiletype=subfiletype, metadata=None)
    with pytest.raises(DataError, match="expected one image in the TIFF, found 2"):
        decode_image(buffer.getvalue(), "x")


def test_colours_that_are_no_band_values_are_refused():
    palette = {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}
    data = tiff(random_image(1)[:, :, 0], **palette)
    with pytest.raises(DataError, match=r"expected band values, found palette colours \(.*-expand rgb"):
        decode_image(data, "x")
    np.testing.assert_array_equal(decode_label(data, "x"), random_image(1)[:, :, 0])
    with pytest.raises(DataError, match="found CMYK colours"):
        decode_image(tiff(random_image(1, bands=4), photometric="separated"), "x")


def test_an_image_with_overviews_is_its_first_page():
    image = random_image(1, 64)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(image, photometric="rgb", metadata=None)
        writer.write(image[::2, ::2].copy(), photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), "x"), image)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "float32", "float64", "complex64", "bool"])
def test_other_types_are_refused(dtype):
    with pytest.raises(DataError, match="expected uint8 or uint16"):
        decode_image(tiff(np.zeros((8, 8), dtype)), "x")


def test_seventeen_bands_are_refused():
    with pytest.raises(DataError, match="17"):
        decode_image(tiff(np.zeros((8, 8, 17), np.uint8), planarconfig="contig"), "x")


def test_an_unknown_compression_is_named():
    with pytest.raises(DataError, match=r"WEBP is not supported \(known: none, LZW"):
        decode_image(tiff(random_image(1), photometric="rgb", compression="webp"), "x")


def test_any_truncation_is_noticed():
    for options in ({}, {"compression": "lzw"}, {"tile": (16, 16)}, {"compression": "deflate"}):
        data = tiff(random_image(1), photometric="rgb", **options)
        for length in range(0, len(data) - 1, 101):
            with pytest.raises(DataError):
                decode_image(data[:length], "x")


@pytest.mark.parametrize("mode", ["L", "P"])
def test_png_labels_are_indexes_not_colours(mode):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) % 5
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([v for i in range(5) for v in (200 - i, i, 7)])
    for bits in (8,) if mode == "L" else (8, 4):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", bits=bits)
        np.testing.assert_array_equal(decode_label(buffer.getvalue(), "x"), values, strict=True)


def test_tiff_labels():
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(decode_label(tiff(values, compression="zstd"), "x"), values, strict=True)
    with pytest.raises(DataError, match="1 band, found 3"):
        decode_label(tiff(random_image(1), photometric="rgb"), "x")


@given(
    dtype=st.sampled_from([np.uint8, np.uint16]),
    num_classes=st.integers(2, 5),
    offset=st.integers(0, 251),
    ignored=st.sampled_from([None, 0, 100, 255]),
    seed=st.integers(0, 99),
)
def test_class_ids(dtype: type, num_classes: int, offset: int, ignored: int | None, seed: int):
    schema = ClassSchema(
        classes=tuple("abcde"[:num_classes]),
        palette=((0, 0, 0),) * num_classes,
        bands=(1,),
        label_offset=offset,
        stored_ignore=ignored,
    )
    meaning = {offset + i: i for i in range(num_classes)} | {255 if ignored is None else ignored: 255}
    stored = np.random.default_rng(seed).choice(np.array(list(meaning), dtype), (6, 7))
    expected = np.vectorize(meaning.get)(stored).astype(np.uint8)
    np.testing.assert_array_equal(to_class_ids(stored, schema, "x"), expected, strict=True)
    for value in {0, offset + num_classes, 254, 255, 256, 511} - meaning.keys():
        if value <= np.iinfo(dtype).max:
            stored[3, 4] = value
            with pytest.raises(ContractError, match="outside the class list"):
                to_class_ids(stored, schema, "x")


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_grey_pngs_of_other_depths_are_refused(bits):
    if bits == 16:
        data = png(np.arange(64, dtype=np.uint16).reshape(8, 8))
    else:  # Pillow writes none of them
        data = bytearray(png(np.zeros((8, 8), np.uint8)))
        data[24] = bits
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match=f"single-channel PNG of class values, found {bits}-bit grey"):
        decode_label(bytes(data), "x")


def test_any_changed_byte_of_a_png_is_noticed():
    data = png(random_image(1)[:, :, 0])
    for position in range(16, len(data), 7):
        with pytest.raises(DataError):
            decode_label(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :], "x")


def test_a_jpeg_that_breaks_off_is_noticed():
    data = bytearray(tiff(random_image(1, 64), photometric="rgb", compression="jpeg"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        tag, count = page.tags[279], page.databytecounts[0]
    for missing in (1, 50, count // 2):
        data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = (count - missing).to_bytes(
            tag.valuebytecount, "little"
        )
        with pytest.raises(DataError, match="a JPEG strip breaks off"):
            decode_image(bytes(data), "x")


SEEDS = [
    tiff(random_image(1), photometric="rgb"),
    tiff(random_image(1), photometric="rgb", compression="lzw", predictor=2, bigtiff=True),
    tiff(random_image(1), photometric="rgb", compression="deflate", tile=(16, 16), byteorder=">"),
    tiff(random_image(1, 64), photometric="rgb", compression="jpeg", tile=(32, 32)),
    png(random_image(1)[:, :, 0]),
]


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    # near the beginning lie the tags, near the end pixels and PNG's checksums
    for position, replacement in draw(
        st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=6)
    ):
        data[position : position + len(replacement)] = replacement
    return bytes(data[: len(data) - draw(st.integers(0, 300))])


@pytest.mark.parametrize("count", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_bytes_are_refused_or_decoded_never_worse(count):
    @settings(max_examples=count)
    @given(damaged_files())
    def run(data):
        for decode in (decode_image, decode_label):
            try:
                array = decode(data, "x")
            except DataError:
                continue
            assert array.dtype in (np.uint8, np.uint16)

    run()
