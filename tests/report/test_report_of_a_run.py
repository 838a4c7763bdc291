"""The reports that the stages write hold the numbers that the stages publish."""

import json

import pytest
from ensembles import export, open_dataset, stage
from html_tree import metrics, parse

from landseg.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    reference = stage(root, val=6, test=2)
    dataset = open_dataset(reference, root)
    probs = [export(root / name, dataset, name) for name in ("swin", "resnest", "third")]
    flags = [text for uri in probs for text in ("--probs", uri)]
    where = ["--dataset", reference, "--storage-uri", str(root), "--run-id", "demo", "--output-dir", str(root / "out")]
    assert main(["average-probs", *flags, *where]) == 0
    return root


def at(document, key):
    """A number of summary.json by its dotted path; a key may itself hold dots (`IoU.field`)."""
    parts = key.split(".")
    while parts:
        for length in range(len(parts), 0, -1):
            name = ".".join(parts[:length])
            if isinstance(document, dict) and name in document:
                document, parts = document[name], parts[length:]
                break
        else:
            raise KeyError(key)
    return document


def test_the_ensemble_report_says_what_summary_json_says(run):
    summary = json.loads((run / "out" / "summary.json").read_text())
    shown = metrics((run / "out" / "report.html").read_text())
    subsets = {"+".join(entry["models"]): entry["scores"] for entry in summary["splits"]["val"]["ensembles"]}
    for key, value in shown.items():
        if key.startswith("seconds."):  # no part of the result; an end-to-end test compares them
            continue
        expected = at(subsets, key.removeprefix("subsets.")) if key.startswith("subsets.") else at(summary, key)
        assert value == expected, key
    for name in ("swin", "resnest", "third"):
        assert {f"models.{name}.{key}" for key in summary["models"][name]} <= set(shown)
        assert f"splits.val.gain_of.{name}.mIoU" in shown
    assert {f"ensemble.{key}" for key in summary["ensemble"]} <= set(shown)
    assert {"num_tiles.val", "num_tiles.test", "subsets.resnest+swin.mIoU"} <= set(shown)


def test_the_ensemble_report_shows_every_part(run):
    tree = parse((run / "out" / "report.html").read_text())
    assert [section["id"] for section in tree.all("section")] == [
        *(
            "result",
            "classes",
            "confusions",
            "calibration",
            "disagreement",
            "worst",
            "best",
            "areas",
            "maps",
            "cost",
            "provenance",
        )
    ]
    assert len([figure for figure in tree.all("figure") if "matrix" in figure.get("class", "")]) == 4


def test_the_data_report_says_what_the_manifest_says(run):
    reference = json.loads((run / "dataset.json").read_text())
    shown = metrics((run / "report.html").read_text())
    assert shown == {key: value for key, value in reference["facts"].items() if key.startswith("num_tiles.")}
