"""Files by the id of their tile, and which files of several such lists share an id."""

from __future__ import annotations

from landseg.raw.layout.by_id import FilesById, by_id, joined
from landseg.raw.sources.source_file import BandFiles, SourceFile, file_list


def file(name: str) -> SourceFile:
    return SourceFile(f"{name}.tif", len(name), 3, 1 << 59)


def test_files_are_found_by_id():
    files = FilesById((f"t{number:04}", file(f"t{number:04}")) for number in range(0, 600, 2))
    assert files["t0004"] == file("t0004")
    assert files["t0598"].path == "t0598.tif"
    assert "t0003" not in files
    assert files.get("u") is None
    assert (len(files), list(files)[:2]) == (300, ["t0000", "t0002"])


def test_files_of_one_id_keep_their_order():
    items = [("b", file("x")), ("a", file("y")), ("b", file("w"))]
    assert list(by_id(items)) == [(1, items[1]), (0, items[0]), (2, items[2])]


def test_lists_are_joined_by_id():
    a, b, c = file("a"), file("b"), file("c")
    lists = FilesById([("1", a), ("3", a)]), FilesById(), FilesById([("2", b), ("3", c)])
    assert list(joined(*lists)) == [("1", [a, None, None]), ("2", [None, None, b]), ("3", [a, None, c])]


def test_a_list_of_images_in_several_files():
    image = BandFiles("t.tif", 7, bands=(file("t_1"), file("t_2")))
    assert list(file_list([image, file("t")])) == [image, file("t")]
