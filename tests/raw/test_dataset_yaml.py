"""`dataset.yaml` as people write it: what is taken, and error lines in its own words whose advice is followed here."""

from __future__ import annotations

import re

import pytest

from landseg.contracts.errors import ContractError, DataError
from landseg.raw.config.dataset_yaml import DatasetConfig, parse_config

START = "version: 1\nname: x\n"


def parsed(text: str | bytes) -> DatasetConfig:
    return parse_config(text if isinstance(text, bytes) else text.encode(), "dataset.yaml")


def error_of(text: str | bytes) -> str:
    with pytest.raises((DataError, ContractError)) as caught:
        parsed(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def followed(text: str, error: str) -> str:
    """The text with the lines that an error says to write, in the place of those of the same fields."""
    fields = r"(?:version|name|classes|palette|label_offset|label_values)"
    for line in re.findall(rf"(?:write|and) ({fields}: .*?)(?= and {fields}: |; |$| \(docs)", error):
        field = line.split(":")[0]
        text = re.sub(rf"^{field}:.*\n(?:[ \-].*\n)*", "", text, flags=re.MULTILINE) + f"{line}\n"
    return text


@pytest.mark.parametrize(
    "text",
    [
        "classes:\n  0: a\n  1: b\n  2: c\n",
        "classes: {2: c, 0: a, 1: b}\n",
        "classes: {'0': a, '1': b, '2': c}\n",
        "classes:\n- a\n- b\n- c\n",
        "classes: [a, b, c]\npalette: ['#ff0000', '#0F0', blue]\n",
        "classes: [a, b, c]\npalette: [[255, 0, 0], '0, 255, 0', '#0000ff']\n",
    ],
)
def test_classes_and_colours_in_any_of_these_forms(text):
    config = parsed(START + text)
    assert config.classes == ("a", "b", "c")
    assert config.palette in (None, ((255, 0, 0), (0, 255, 0), (0, 0, 255)))


def test_bytes_of_any_editor():
    text = START + "classes: [Köln, b]\n"
    for data in (
        b"\xef\xbb\xbf" + text.encode(),
        text.replace("\n", "\r\n").encode(),
        text.replace("\n", "\r").encode(),
        text.encode("utf-16"),
    ):
        assert parsed(data) == parsed(text)


ADVICE = {
    "no": ("classes: [no, water, 3]\n", "found no, which YAML reads as false, 3, which YAML reads as a number"),
    "yes, on, off, y": ("classes:\n  - yes\n  - on\n  - off\n  - y\n", "yes, which YAML reads as true"),
    "nothing": ("classes: [a, , b]\n".replace(", ,", ", ~,"), "found ~, which YAML reads as nothing"),
    "a date": ("classes: [2024-01-01, b]\n", "2024-01-01, which YAML reads as a date"),
    "a time": ("classes: [12:30, 0x1f, 1_000]\n", "12:30, which YAML reads as a number"),
    "by id": ("classes: {0: no, 1: b}\n", "found no, which YAML reads as false: write classes: ['no', b]"),
    "ids from 1": ("classes: {1: a, 2: b}\n", "write classes: [a, b] and label_offset: 1"),
    "ids with gaps": ("classes:\n  10: tree\n  0: other\n", "label_values: {0: other, 10: tree}"),
    "one text": ("classes: a, b, c\n", "found 'a, b, c': write classes: [a, b, c]"),
    "no classes": ("", "field classes is missing: write classes: [background, water]"),
    "a name with signs": ("classes: [a, b]\nname: Köln (2024)\n", "write name: Koln 2024"),
    "a name with a sharp s": ("classes: [a, b]\nname: Straße/Süd\n", "write name: Strasse Sud"),
    "another version": ("classes: [a, b]\nversion: '1'\n", "expected 1, found '1': remove the quotes"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_what_is_advised_is_right(case):
    text, expected = ADVICE[case]
    start = "".join(f"{line}\n" for line in START.splitlines() if line.split(":")[0] not in text)
    error = error_of(start + text)
    assert expected in error
    if "remove the quotes" in error:
        parsed((start + text).replace("'", ""))
        return
    fixed = followed(start + text, error)
    assert fixed != start + text
    config = parsed(fixed)
    if case in ("no", "yes, on, off, y", "a time"):
        assert list(config.classes) == re.findall(r"[\w:]+", text.removeprefix("classes:"))
    if case == "ids with gaps":
        assert config.label_values == ((0, 0, "other"), (10, 10, "tree"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clases: [a, b]\n", "line 3: field clases is not known: write classes"),
        ("names: [a, b]\n", "line 3: field names is not known: write classes"),
        ("Classes: [a, b]\n", "line 3: field Classes is not known: write classes"),
        ("classes: [a, b]\nignore-index: 9\n", "line 4: field ignore-index is not known: write ignore_index"),
        ("classes: [a, b]\ncolors: ['#fff', '#000']\n", "line 4: field colors is not known: write palette"),
        ("classes: [a, b]\nimg_suffix: _x\n", "write image_suffix"),
        ("classes: [a, b]\nnc: 2\n", "remove it"),
        (
            "classes: [a, b]\nreduce_zero_label: true\n",
            "is not known: if it is true, label_offset: 1 with ignore_index: 0",
        ),
        ("classes: [a, b]\ntile_px: 256\n", "field tile_px is not known: scenes: {tile_px: ...} says it"),
        ("classes: [a, b]\nfoo: 2\n", "line 4: field foo is not known: the fields are version, name, classes"),
        ("classes: [a, b]\n1: 2\n", "line 4: field 1 is not known"),
    ],
)
def test_fields_that_are_not_known_and_what_is_meant(text, expected):
    error = error_of(START + text)
    assert expected in error
    if match := re.search(r"field (\S+) is not known: write (\w+)", error):
        parsed((START + text).replace(f"{match[1]}:", f"{match[2]}:"))
    elif "remove it" in error:
        parsed((START + text).replace("nc: 2\n", ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classes: [a, b]\nignore_index: 1.5\n", "line 4: field ignore_index: "),
        ("classes: [a, b]\nlabel_offset: 300\n", "field label_offset: expected at most 255, found 300"),
        ("classes: [a, b]\nlabel_offset: '1'\n", "field label_offset: expected a number, found '1': remove the quotes"),
        ("classes: [a]\n", "field classes: expected at least 2 values, found 1"),
        ("classes: [a, b]\npalette:\n- #ff0000\n- #00ff00\n", "write '#ff0000' in quotes, as # begins a comment"),
        ("classes: [a, b]\npalette: [[0, 0, 0], [0, 0, 256]]\n", "field palette.1.2: expected at most 255, found 256"),
        ("classes: [a, b]\npalette: ['#12345', '#000000']\n", "expected a colour such as '#ff0000'"),
        ("classes: [a, b]\nimage_suffix: a/b\n", "pattern '^[^/\\\\]*$'"),
        (
            "classes: [a, b]\nscale: range\n",
            "expected method: range or method: percentile, found 'range': write scale: {",
        ),
        ("classes: [a, b]\nscale: {method: minmax}\n", "field scale: expected method: range or method: percentile"),
        (
            "classes: [a, b]\nscale: {low: [0, 1], high: [8, 9]}\n",
            "write scale: {method: range, low: [0, 1], high: [8, 9]}",
        ),
        ("classes: [a, b]\nscale: {method: range, lo: 0, high: 1}\n", "field scale.lo is not known: write low"),
        ("classes: [a, b]\nscenes: 512\n", "field scenes: expected a map, found 512: write scenes: {max_px: 512}"),
        ("classes: [a, b]\nscenes: {tile: 64}\n", "field scenes.tile is not known: write tile_px"),
        ("classes: [a, b]\nbands: 3\n", "field bands: expected a list, found 3: write bands: [3, 2, 1]"),
        ("classes: [a, b]\npalette: red\n", "found 'red': write palette: [[255, 0, 0], '#00ff00']"),
        ("classes: [a, b]\npalette: [[1, 2], [3, 4, 5]]\n", "field palette.0: expected more values, found 2"),
        ("classes: [a, b]\nimage_suffix: 5\n", "found 5, which YAML reads as a number: put it in quotes"),
        ("classes: [a, b]\nscenes: {max_px: 10}\n", "line 4: field scenes.max_px: expected at least 64, found 10"),
        ("classes: [a, b]\nlabels_without_image: drop\n", "expected 'error' or 'skip', found 'drop'"),
        (
            "classes:\n- {name: a, color: red}\n- {name: b}\n",
            "write classes: [background, water], and colours into palette",
        ),
        ("classes: [a, 'b\\u200f']\n".replace("'", '"'), "right-to-left mark (U+200F)"),
    ],
)
def test_values_that_are_wrong(text, expected):
    error = error_of(START + text)
    assert expected in error
    if advice := re.search(r"(?<=: write )(?:scale|scenes|bands|palette): .*(?= \(docs)", error):
        parsed(f"{START}classes: [a, b]\n{advice[0]}\n")


def test_all_fields_at_fault_are_listed_each_with_its_line():
    error = error_of(
        "version: 1\nname: Köln (2024)\nclasses: [a, no, c]\npalette: [red, 5, '#0000ff']\n"
        "bnads: [1]\nlabel_offset: -1\n"
    )
    for expected in (
        "line 2: field name: expected letters",
        "line 3: field classes: expected names, found no",
        "line 4: field palette",
        "line 5: field bnads is not known: write bands",
        "line 6: field label_offset: expected at least 0, found -1",
    ):
        assert expected in error
    assert "A-Z" in error


FAULTS = {
    "a tab": ("version: 1\nscenes:\n\tmax_px: 64\n", "a tab where only spaces may be, in line 3, column 1"),
    "no space": ("version: 1\nname:x\nclasses: [a, b]\n", "write each line as `key: value`"),
    "no bracket": ("version: 1\nclasses: [a, b\nname: x\n", "a list or map in brackets that does not end, in line 2"),
    "hex colours": ("palette: [#ff0000, #00ff00]\nversion: 1\n", "does not end, in line 1, column 10"),
    "no quote": ('name: "x\nversion: 1\n', "a value in quotes that does not end, in line 1, column 7"),
    "a colon in a value": ("name: a: b\n", "a colon out of place, in line 1, column 8"),
    "an indent": ("classes:\n  - a\n - b\n", "a line indented unlike those above, in line 3"),
    "a key twice": ("name: x\nversion: 1\nname: y\n", "a key given twice, in line 1 and in line 3"),
    "an alias": ("name: *x\n", "found one in line 1, column 7 (write the value out, or put the value in quotes"),
    "a sign": (
        "name: @x\n",
        "a character that values cannot begin with, in line 1, column 7 (put the value in quotes)",
    ),
    "two documents": ("version: 1\n---\nname: x\n", "a second document, in line 2"),
    "a backslash": ('name: "C:\\data"\n', "a backslash in double quotes, in line 1, column 11 (use single quotes)"),
    "Latin-1": (
        START.encode() + "classes: [Köln, b]".encode("latin-1"),
        "a byte in line 3 that is not (save",
    ),
    "UTF-16 without its mark": ("version: 1\n".encode("utf-16-le"), "found zero bytes in it"),
    "a list": ("- a\n- b\n", "expected a mapping with version, name and classes, found a list"),
    "a sentence": ("hello\n", "found a text (write each line as `key: value`"),
    "a comment": ("# version: 1\n", "found nothing"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_text_that_is_no_yaml_is_told_by_its_place(case):
    text, expected = FAULTS[case]
    assert expected in error_of(text)
