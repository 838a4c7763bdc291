"""What every report has to be: well-formed, self-contained, readable by programs and by screen readers, small."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from html_tree import metrics, parse
from report_examples import data_example, ensemble_example, predict, training_example

from landseg.raw.findings import Finding
from landseg.report import data, page, training
from landseg.report.ensemble import rendering
from landseg.report.ensemble.areas import ClassAreas
from landseg.report.scores import Prediction
from landseg.report.tile_pictures import TilePicture
from landseg.scoring.calibration import accuracy, calibration_error, mean_confidence

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&{{7*7}}</style>"

PAGES = {
    "ensemble": lambda: rendering.render(ensemble_example(num_tiles=6)),
    "one model": lambda: rendering.render(ensemble_example(names=("swin",), num_tiles=3, intervals=False)),
    "four models": lambda: rendering.render(
        ensemble_example(names=("swin", "resnest", "third", "fourth"), num_tiles=3)
    ),
    "no labels": lambda: rendering.render(ensemble_example(labelled=False, num_tiles=3)),
    "data": lambda: data.render(data_example(num_samples=4)),
    "bad data": lambda: data.render(data_example(num_samples=2, num_problems=500)),
    "training": lambda: training.render(training_example()),
    "training, not scored": lambda: training.render(training_example(evaluated=False)),
}


@pytest.fixture(scope="module", params=PAGES)
def html(request):
    return PAGES[request.param]()


@pytest.fixture(scope="module")
def tree(html):
    return parse(html)


def test_the_page_is_well_formed(html, tree):
    assert html.lower().startswith("<!doctype html>")
    assert [element.tag for element in tree.children if not isinstance(element, str)] == ["html"]
    (root,) = tree.all("html")
    assert root["lang"] == "en"
    assert tree.all("title")[0].text
    assert len(tree.all("main")) == 1


def test_nothing_is_fetched_from_anywhere(html, tree):
    assert not tree.all("link", "iframe", "object", "embed", "base", "form")
    for element in tree.walk():
        for name in ("src", "href", "srcset", "action", "poster", "xlink:href"):
            value = element.get(name)
            assert value is None or value.startswith(("data:image/webp;base64,", "#")), (element.tag, name, value)
        assert not any(name.startswith("on") for name in element.attributes)
    styles = "".join(child for style in tree.all("style") for child in style.children if isinstance(child, str))
    assert "url(" not in styles
    assert "@import" not in styles
    (policy,) = [meta["content"] for meta in tree.all("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(tree.all("script")) == 1


def test_headings_are_in_order(tree):
    levels = [int(element.tag[1]) for element in tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for section in tree.all("section"):
        assert section.all("h2")[0]["id"] == section["aria-labelledby"]


def test_identifiers_are_unique_and_links_lead_somewhere(tree):
    ids = [element["id"] for element in tree.walk() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for link in tree.all("a"):
        assert link["href"][1:] in ids
        assert link.text
    for label in tree.all("label"):
        assert label["for"] in ids
    for element in tree.walk():
        for name in ("aria-labelledby", "data-copy"):
            assert element.get(name) is None or element[name] in ids
    assert {link["href"][1:] for link in tree.all("nav")[0].all("a")} == {s["id"] for s in tree.all("section")}


def test_pictures_have_words(tree):
    for image in tree.all("img"):
        assert image["alt"].strip()
        assert image["width"]
        assert image["height"]
    for svg in tree.all("svg"):
        hidden = svg.get("aria-hidden") == "true" or any(a.get("aria-hidden") == "true" for a in svg.ancestors())
        assert hidden or svg.get("aria-label")
    for chart in (element for element in tree.walk() if element.get("role") == "img"):
        assert chart["aria-label"].strip()


def test_tables_have_headers_and_captions(tree):
    for table in tree.all("table"):
        assert len(table.all("caption")) == 1
        assert all(cell.get("scope") in {"col", "row"} for cell in table.all("th"))
        assert all(cell.text for cell in table.all("th"))
        width = len(table.all("thead")[0].all("th"))
        rows = table.all("tbody")[0].all("tr")
        assert rows
        assert {len(row.all("th", "td")) for row in rows} == {width}


def test_what_scrolls_can_be_reached_by_keyboard(tree):
    for element in tree.walk():
        if element.get("class") == "scroll":
            assert element["tabindex"] == "0"
            assert element["aria-label"]


def test_choices_are_labelled(tree):
    names = {}
    for choice in tree.all("input"):
        assert choice["type"] == "radio"
        names.setdefault(choice["name"], []).append("checked" in choice.attributes)
        assert any(label["for"] == choice["id"] and label.text for label in tree.all("label"))
        assert any(parent.tag == "fieldset" and parent.all("legend") for parent in choice.ancestors())
    assert all(checked.count(True) == 1 for checked in names.values())


def _scores_of(prediction, path):
    return {f"{path}.{key}": value for key, value in prediction.scores.items()}


def test_the_numbers_are_those_that_were_given():
    report = ensemble_example(names=("swin", "resnest", "third"), num_tiles=4)
    expected = _scores_of(report.ensemble, "ensemble")
    for model in report.models:
        expected |= _scores_of(model, f"models.{model.name}")
    for one in (*report.models, report.ensemble):
        expected[f"splits.val.boundary.{one.name}.mIoU"] = one.boundary["mIoU"]
        found = {"ECE": calibration_error, "confidence": mean_confidence, "accuracy": accuracy}
        expected |= {f"splits.val.calibration.{one.name}.{key}": of(one.reliability) for key, of in found.items()}
    for subset in report.subsets:
        expected |= {f"subsets.{subset.name}.{key}": subset.scores[key] for key in ("mIoU", "mAcc", "aAcc")}
    expected |= {f"seconds.{cost.stage}": cost.seconds for cost in report.costs}
    expected |= {f"splits.val.gain_of.{name}.mIoU": value for name, (value, _) in report.adds.items()}
    expected |= {f"num_tiles.{split}": number for split, number in report.num_tiles.items()}
    assert metrics(rendering.render(report)) == expected


@pytest.mark.parametrize(
    ("num_scenes", "num_units", "expected"),
    [
        (
            *(0, 40),
            "95 % intervals resample 40 tiles: they are optimistic if those tiles were cut from larger images, because "
            "neighbours resemble each other.",
        ),
        (25, 25, "95 % intervals resample 25 scenes."),
        (3, 4, "95 % intervals resample 3 scenes and 1 tile; from fewer than 20, they are rough themselves."),
    ],
)
def test_the_page_says_what_intervals_rest_on(num_scenes, num_units, expected):
    report = ensemble_example(num_tiles=1)
    given = dataclasses.replace(report, num_scored_scenes=num_scenes, num_units=num_units)
    assert f"Bars are confidence intervals: {expected}</caption>" in rendering.render(given)


def test_calibration_is_told_without_the_picture():
    report = ensemble_example(num_tiles=2)
    (section,) = [found for found in parse(rendering.render(report)).all("section") if found["id"] == "calibration"]
    (chart,) = [element for element in section.walk() if element.get("role") == "img"]
    assert chart["aria-label"].startswith("Reliability diagram: accuracy in percent over confidence in percent. swin: ")
    for name in ("swin", "resnest", "ensemble"):
        assert re.search(rf"{name}: \d+ at \d+, ", chart["aria-label"])
    assert len(section.all("tr")) == 1 + 3
    uncounted = dataclasses.replace(report.ensemble, reliability=np.zeros((3, 15), np.int64), boundary={})
    bare = [dataclasses.replace(model, reliability=None, boundary={}) for model in report.models]
    html = rendering.render(dataclasses.replace(report, models=tuple(bare), ensemble=uncounted))
    assert "Reliability diagram" not in html
    assert "Calibration" not in html


def test_the_numbers_of_the_training_report():
    report = training_example()
    assert metrics(training.render(report)) == {f"swin.{k}": v for k, v in report.evaluations[-1].scores.items()}


def test_hostile_names_stay_text():
    report = ensemble_example(num_tiles=2)
    tiles = tuple(dataclasses.replace(tile, tile_id=HOSTILE) for tile in report.disagreeing[:1])
    classes = (HOSTILE, *report.classes[1:])
    report = dataclasses.replace(
        report,
        classes=classes,
        run_id=HOSTILE,
        dataset=HOSTILE,
        disagreeing=tiles,
        worst=(),
        best=(),
        warnings=(HOSTILE,),
        provenance={HOSTILE: {HOSTILE: HOSTILE, "lines": f"{HOSTILE}\n{HOSTILE}"}},
    )
    bad = data_example(num_samples=1)
    findings = (Finding(HOSTILE, HOSTILE, HOSTILE), Finding("", HOSTILE, severity="warning"))
    bad = dataclasses.replace(bad, name=HOSTILE, classes=classes, findings=findings)
    trained = dataclasses.replace(training_example(), config=HOSTILE, name=HOSTILE, classes=classes)
    for text in (rendering.render(report), data.render(bad), training.render(trained)):
        tree = parse(text)
        assert len(tree.all("script")) == 1
        assert all(image["src"].startswith("data:") for image in tree.all("img"))
        assert "49" not in tree.all("h1")[0].text
        assert tree.all("h1")[0].text == " ".join(HOSTILE.split())


def test_a_tile_is_drawn_once_and_linked_from_later_lists():
    report = ensemble_example(num_tiles=3)
    report = dataclasses.replace(report, disagreeing=report.best, worst=report.best, best=report.best)
    tree = parse(rendering.render(report))
    articles = tree.all("article")
    assert [bool(article.all("img")) for article in articles] == [True, False, False]
    assert articles[1].all("a")[0]["href"] == f"#{articles[0]['id']}"


def test_what_is_not_known_is_left_out():
    bare = ensemble_example(names=("swin",), num_tiles=1, labelled=False)
    bare = dataclasses.replace(bare, areas=(), maps=(), costs=(), provenance={}, disagreeing=())
    tree = parse(rendering.render(bare))
    assert [section["id"] for section in tree.all("section")] == ["result"]
    assert "nothing is scored" in tree.all("section")[0].text


def test_a_gain_that_may_be_chance_says_so():
    report = ensemble_example(num_tiles=2)
    doubtful = rendering.render(dataclasses.replace(report, gain_interval=(-0.01, 0.02)))
    clear = rendering.render(dataclasses.replace(report, gain_interval=(0.01, 0.02)))
    assert "includes zero (−1.00 to +2.00): the difference may be due to chance" in doubtful
    assert "due to chance" not in clear


def test_a_class_without_a_score_is_shown_without_one():
    report = ensemble_example(num_tiles=2)
    for prediction in (*report.models, report.ensemble):
        prediction.scores.pop("IoU.dig")
    tree = parse(rendering.render(report))
    (row,) = [r for r in tree.all("section")[1].all("tr") if r.all("th")[0].text == "dig"]
    assert row.text.count("–") == 4


def test_hectares_come_from_the_pixel_area():
    report = ensemble_example(num_tiles=2)
    area = ClassAreas("test", (20_000, *[0] * 8), None, 100.0, None)
    tree = parse(rendering.render(dataclasses.replace(report, areas=(area,))))
    (section,) = [s for s in tree.all("section") if s["id"] == "areas"]
    assert section.all("tbody")[0].all("tr")[0].all("td")[-1].text == "200.0"


@pytest.mark.parametrize("num_classes", [41, 255])
def test_many_classes_are_drawn_as_a_picture(num_classes):
    rng = np.random.default_rng(0)
    classes = tuple(f"class {number}" for number in range(num_classes))
    found = {"mIoU": 0.5, "mAcc": 0.6, "aAcc": 0.7, **{f"IoU.{name}": rng.random() for name in classes}}
    confusion = rng.integers(0, 100, (num_classes, num_classes))
    report = dataclasses.replace(
        ensemble_example(num_tiles=1),
        classes=classes,
        palette=tuple(tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in classes),
        models=tuple(Prediction(f"m{n}", found, confusion) for n in range(3)),
        ensemble=Prediction("ensemble", found, confusion),
        areas=(),
        disagreeing=(),
        worst=(),
        best=(),
    )
    text = rendering.render(report)
    assert "Confusion matrix of ensemble" in parse(text).all("img")[-1]["alt"]
    assert len(text.encode()) < page.MAX_BYTES


@pytest.mark.parametrize(
    "facts",
    [
        {"list": list(range(1_000_000))},
        {"text": '"\N{SNOWMAN}' * 1_000_000},
        {f"fact {number}": "&" * 1000 for number in range(10_000)},
        {str(number): {"a": [number]} for number in range(50_000)},
        {"k" * 3_000_000: 1},
        {"nested": [[[[[[[[[[0] * 20] * 10] * 10] * 10]]]]]]},
    ],
    ids=["list", "text", "many texts", "many structures", "name", "nested"],
)
def test_facts_of_any_size_leave_a_page_within_five_megabytes(facts, monkeypatch):
    report = dataclasses.replace(ensemble_example(num_tiles=1), provenance={"First": {"a": 1}, "Model": facts})
    text = rendering.render(report)
    assert len(text.encode()) < page.MAX_BYTES / 2
    assert ("are not shown" in text) != ("more than fit into this page" in text)
    monkeypatch.setattr(page, "MAX_BYTES", len(text.encode()) - 1)
    assert len(rendering.render(report).encode()) < len(text.encode()), "pictures and tables need the room"


def test_facts_show_no_credentials():
    facts = {"Model": {"pretrained": "https://h/w.pth?key=sEcr3t", "list": [{"a": "https://me:sEcr3t@h/x#sEcr3t"}]}}
    text = rendering.render(dataclasses.replace(ensemble_example(num_tiles=1), provenance=facts))
    assert "https://h/w.pth?key=***" in text
    assert "https://***@h/x#***" in text
    assert "sEcr3t" not in text


@pytest.mark.slow
def test_sixty_tiles_of_512_px_and_20_classes_stay_within_five_megabytes():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 20, (64, 64), dtype=np.uint8)
    truth = np.kron(coarse, np.ones((8, 8), np.uint8))
    image = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    maps = [predict(np.roll(truth, 16 * n, 0), 0.9, rng) for n in range(3)]
    tiles = tuple(
        TilePicture(f"{n:05d}", "val", np.roll(image, n), truth, tuple(maps[:2]), maps[2], rng.random((512, 512)), 0.4)
        for n in range(60)
    )
    report = dataclasses.replace(
        ensemble_example(num_tiles=1),
        classes=tuple(f"class {n}" for n in range(20)),
        palette=tuple(tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(20)),
        models=(Prediction("swin"), Prediction("resnest")),
        ensemble=Prediction("ensemble"),
        areas=(),
        disagreeing=tiles,
        worst=(),
        best=(),
    )
    text = rendering.render(report)
    assert len(text.encode()) <= page.MAX_BYTES
    assert len(parse(text).all("article")) == 60


def test_tiles_for_which_there_is_no_room_are_counted(monkeypatch):
    report = ensemble_example(num_tiles=6)
    report = dataclasses.replace(report, worst=(), best=(), disagreeing=report.disagreeing[:4])
    monkeypatch.setattr(rendering, "PICTURE_BYTES", 20_000)
    text = rendering.render(report)
    shown = len(parse(text).all("article"))
    assert 0 < shown < 4
    assert f"{4 - shown} more tiles are left out" in parse(text).text


def test_long_lists_of_problems_are_cut_and_say_so():
    tree = parse(data.render(data_example(num_samples=1, num_problems=page.MAX_TABLE_ROWS + 1)))
    (section,) = [s for s in tree.all("section") if s["id"] == "problems"]
    assert len(section.all("li")) == page.MAX_TABLE_ROWS
    assert f"The first {page.MAX_TABLE_ROWS} are listed" in section.text


def test_the_script_is_the_one_that_the_policy_names(html):
    import base64
    import hashlib

    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html


def test_training_on_a_val_without_labelled_pixels_has_a_report_without_scores():
    report = training_example()
    unscored = tuple(dataclasses.replace(one, scores={}) for one in report.evaluations)
    text = parse(training.render(dataclasses.replace(report, evaluations=unscored))).text
    assert "was not scored: no pixel of val is labelled." in text
    assert "mIoU on val" not in text and "Scores on val" not in text


def test_shares_and_truth_are_of_the_same_pixels():
    report = ensemble_example(num_tiles=2)
    area = ClassAreas("val", (60, 140, *[0] * 7), (30, 70, *[0] * 7), None, None, (20, 80, *[0] * 7))
    tree = parse(rendering.render(dataclasses.replace(report, areas=(area,))))
    (section,) = [s for s in tree.all("section") if s["id"] == "areas"]
    rows = [[cell.text for cell in row.all("td")[1:4]] for row in section.all("tbody")[0].all("tr")[:2]]
    assert rows == [["80.0", "70.0", "140"], ["20.0", "30.0", "60"]]
    assert "shares are of the 100 scored pixels" in section.text


def test_other_labelled_splits_have_scores_and_map_files_are_listed():
    report = ensemble_example(num_tiles=2)
    tree = parse(rendering.render(report))
    (result,) = [s for s in tree.all("section") if s["id"] == "result"]
    other = result.all("table")[-1]
    assert other.all("caption")[0].text.startswith("Scores on test, in percent: 16 tiles")
    names = [row.all("th")[0].text for row in other.all("tr")[1:]]
    assert names == [*(model.name for model in report.models), "ensemble"]
    assert other.all("tr")[-1].all("td")[0].text == f"{100 * report.ensemble.scores['mIoU']:.2f}"
    (maps,) = [s for s in tree.all("section") if s["id"] == "maps"]
    assert [row.all("th")[0].text for row in maps.all("tr")[1:]] == [
        "maps/labels-val-000000.tar",
        "maps/entropy-val-000000.tar and 2 more",
    ]
