"""Files that are not what their name promises are called what they are."""

from __future__ import annotations

import gzip

import pytest

from landseg.raw.sources.file_start import read_start, wrong_content

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
STARTS = {
    "empty": (b"", "an empty file", "copy or download it again"),
    "zeros": (bytes(5000), "begins with zeros", "copy or download it again"),
    "pointer": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "pointer with a BOM": (b"\xef\xbb\xbf" + POINTER, "a Git LFS pointer", "git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s1--0.tif\n", "a git-annex pointer", "git annex get"),
    "page": (b"\r\n <!DOCTYPE HTML><html>Sign in</html>", "an HTML page", "download it again"),
    "xhtml": (b'<?xml version="1.0"?>\n<html xmlns="x">', "an HTML page", "download it again"),
    "refused": (
        b"<?xml?><Error><Code>AccessDenied</Code></Error>",
        "an error message",
        "download it again",
    ),
    "gzip": (gzip.compress(b"x"), "a gzip file", "unpack it"),
}


@pytest.mark.parametrize("case", STARTS)
def test_what_was_never_sent_is_told_with_what_to_do(case):
    data, found, action = STARTS[case]
    error = wrong_content(data, "a.tif", "a TIFF")
    assert error is not None
    assert str(error).startswith("a.tif: expected a TIFF, found ")
    assert found in error.problem
    assert action in error.hint


@pytest.mark.parametrize("data", [b"II*\0", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF1234WEBP", b"<VRTDataset>", b"name: x"])
def test_other_files_are_a_matter_for_their_readers(data):
    assert wrong_content(data, "a.tif", "a TIFF") is None
    assert read_start(data).found
