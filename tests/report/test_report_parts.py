"""The parts of the reports: numbers, colours, pictures, charts."""

import base64
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from landseg.report import data, figures, page, pictures, scores
from landseg.report.tile_pictures import encode_within_budget
from landseg.sample.tiles import PALETTE

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(linear):
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def smallest_difference(colours, matrix):
    value = np.asarray(colours) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    points = lab(np.clip(linear @ np.asarray(matrix).T, 0, 1))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    return distances[~np.eye(len(points), dtype=bool)].min()


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(("num_classes", "least"), [(2, 32), (9, 32), (16, 19)])
def test_safe_colours_stay_apart(deficiency, num_classes, least):
    palette = (PALETTE * 2)[:num_classes]
    colours = page.safe_palette(palette)
    assert len(colours) == num_classes
    assert smallest_difference(colours, DEFICIENCIES[deficiency]) >= least


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=60))
def test_every_class_has_a_safe_colour(palette):
    colours = page.safe_palette(palette)
    assert len(colours) == len(palette)
    assert len(set(colours)) == min(len(palette), 16)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0\u202fB"),
        (999, "999\u202fB"),
        (1500, "1.5\u202fkB"),
        (485_000_000, "485\u202fMB"),
        (2.15e9, "2.15\u202fGB"),
        (None, "–"),
    ],
)
def test_sizes(value, text):
    assert page.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.00451, "+0.5"), (-0.02, "−2.0"), (0.0, "±0.0"), (-0.0001, "±0.0"), (None, "–")]
)
def test_differences_carry_their_sign(value, text):
    assert page.signed(value) == text


def test_names_in_a_row():
    assert [page.sentence(names) for names in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_long_facts_say_what_they_leave_out():
    assert page.fact_text("x" * (page.MAX_FACT_CHARS + 7)).endswith("7 more characters are not shown")
    assert page.fact_text(True) == "yes"
    assert page.fact_text([1, "a"]) == '[1, "a"]'


def decode(uri):
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_label_maps_are_drawn_exactly(height, width, seed):
    labels = np.random.default_rng(seed).integers(0, 10, (height, width), dtype=np.uint8)
    drawn = decode(pictures.label_map(labels, PALETTE, 64))
    known = labels < len(PALETTE)
    assert (drawn[known][:, :3] == np.array(PALETTE)[labels[known]]).all()
    assert (drawn[known][:, 3] == 255).all()
    assert (drawn[~known][:, 3] == 0).all()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_shrinking_keeps_the_shape_and_invents_no_value(height, width, side):
    values = np.arange(height * width, dtype=np.uint32).reshape(height, width) % 251 + 5
    small = pictures.shrink(values, side)
    assert small.shape == pictures.shape_at(values.shape, side)
    assert max(small.shape) == min(side, max(height, width))
    assert set(small.ravel()) <= set(values.ravel())
    if side >= max(height, width):
        assert (small == values).all()


def test_photos_have_the_size_asked_for():
    assert decode(pictures.photo(np.zeros((100, 50, 3), np.uint8), 20)).shape == (20, 10, 4)


def test_heat_rises_from_dark_to_pale():
    drawn = decode(pictures.heat(np.linspace(0, 1, 24)[None], 64))[0, :, :3].astype(int)
    lightness = drawn @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_codes_name_what_prevails():
    labels = np.zeros((60, 60), np.uint8)
    labels[:, 30:] = 10
    labels[::2, :10] = 3
    labels[50:, 50:] = 255
    rows = pictures.codes(labels, 11)
    assert rows == [["", *"00aaa"]] * 5 + [["", *"00aa", ""]]
    assert pictures.codes(labels, 37)[0] == ["", "00", "00", "10", "10", "10"]
    assert [len(row) for row in pictures.codes(np.zeros((10, 30), np.uint8), 2)] == [6, 6]


def test_a_label_map_in_words():
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    assert pictures.composition(labels, ("field", "road")) == "field 50 %, road 25 %"
    assert pictures.composition(labels[:, 3:], ("field",)) == "nothing labelled"


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    st.integers(2, 8),
    st.booleans(),
)
def test_axes_hold_their_values_between_few_round_ticks(values, num_ticks, whole):
    scale = figures.axis(values, num_ticks=num_ticks, whole=whole)
    slack = 1e-6 * (scale.high - scale.low)
    assert scale.low <= min(values) + slack
    assert scale.high >= max(values) - slack
    assert 2 <= len(scale.ticks) <= 2 * num_ticks + 3
    assert list(scale.ticks) == sorted(set(scale.ticks))
    assert not whole or all(tick == round(tick) for tick in scale.ticks)
    assert all(-1e-6 <= scale.at(tick) <= 100 + 1e-6 for tick in scale.ticks)


def test_fixed_ends_stay():
    scale = figures.axis((), low=0, high=12, whole=True)
    assert (scale.low, scale.high) == (0, 12)
    assert scale.ticks == (0, 5, 10)
    assert figures.axis([0.0, 0.0], low=0).high > 0
    assert figures.axis([math.nan]).low < figures.axis([math.nan]).high


def test_thinning_keeps_every_spike_and_gap():
    y = np.zeros(10_000)
    y[4321], y[7000], y[9000] = 50, -50, np.nan
    x = np.arange(10_000.0)
    thin_x, thin_y = figures.thin(x, y)
    assert len(thin_x) <= 500
    assert np.nanmax(thin_y) == 50
    assert np.nanmin(thin_y) == -50
    assert np.isnan(thin_y).sum() == 1
    assert (np.diff(thin_x) > 0).all()


def test_the_running_mean_skips_what_is_not_finite():
    y = np.array([1.0, np.nan, 3.0, np.inf, 5.0])
    assert figures.smooth(y, 0.0).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_line_is_broken_where_a_value_is_missing():
    axis = figures.axis([0, 3], low=0)
    line = figures.Series("a", 0, np.arange(4.0), np.array([0, 1, np.nan, 3]), points=True)
    drawn = figures.lines("title", [line], "x", axis, axis)
    (path,) = [part for part in drawn.split("<path ") if 'class="line' in part]
    assert path.count("M") == 2
    assert "nan" not in drawn


def test_the_largest_confusions_come_first():
    confusion = np.array([[90, 10, 0], [30, 60, 10], [0, 0, 0]])
    pairs = [(c.truth, c.prediction, c.pixels) for c in scores.largest_confusions(confusion)]
    assert pairs == [(1, 0, 30), (0, 1, 10), (1, 2, 10)]
    first = scores.largest_confusions(confusion)[0]
    assert first.share_of_class == pytest.approx(0.3)
    assert first.share_of_errors == pytest.approx(0.6)
    assert scores.largest_confusions(np.diag([5, 5])) == []


def test_pictures_shrink_before_any_is_left_out():
    sizes = []

    def encode(item, side):
        sizes.append(side)
        return item, side

    assert encode_within_budget(range(10), encode, 1600) == list(range(10))
    assert min(sizes) == 160
    assert encode_within_budget(range(10), encode, 200) == [0, 1, 2]
    assert encode_within_budget([], encode, 0) == []


@pytest.mark.parametrize("num_classes", [2, 16, 17, 36, 37, 60, 150, 255])
def test_every_class_has_a_code_of_its_own_and_shared_colours_are_admitted(num_classes):
    codes = [page.class_code(i, num_classes) for i in range(num_classes)]
    assert len(set(codes)) == num_classes
    assert {len(code) for code in codes} == {1 if num_classes <= 36 else 2}
    classes = tuple(f"class{i}" for i in range(num_classes))
    palette = tuple((i, 255 - i, 7) for i in range(num_classes))
    assert len(set(page.safe_palette(palette))) == page.num_safe_colours(num_classes) == min(16, num_classes)
    labels = np.repeat(np.arange(num_classes, dtype=np.uint8), 8)[None].repeat(8, 0)
    tile = data.SampleTile("t", "train", np.zeros((*labels.shape, 3), np.uint8), labels)
    split = data.SplitStats("train", 1, True, 1, 1, (1,) * num_classes, 0, (0.0,), (1.0,))
    html = data.render(data.DataReport("many", "d", classes, palette, (1,), 1, "uint8", (split,), samples=(tile,)))
    assert ("classes share a colour" in html) == (num_classes > 16)
    assert all(f'<span class="code">{code}</span>' in html for code in codes)
