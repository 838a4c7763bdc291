"""The pipelines command's arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.arguments import parse_parameters
from pipelines.dags.packages import package
from pipelines.errors import UserError

PACKAGE = package("train-and-ensemble")
NEEDED = ["source=/tiles", "storage_uri=s3://bucket/a=b", "run_id=7"]


def test_values_take_the_types_the_pipeline_declares() -> None:
    given = [*NEEDED, "epochs=3", "swin_lr=6e-5", "weights=0.3,0.7", 'tolerations=[{"operator": "Exists"}]']
    assert parse_parameters(PACKAGE, given) == {
        "source": "/tiles",
        "storage_uri": "s3://bucket/a=b",
        "run_id": "7",
        "epochs": 3,
        "swin_lr": 6e-5,
        "weights": "0.3,0.7",
        "tolerations": [{"operator": "Exists"}],
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "train-and-ensemble needs --param run_id=… --param source=… --param storage_uri=…"),
        (["sorce=x"], "no such parameter, did you mean source"),
        (["xyz=x"], "no such parameter, expected one of average_workers, "),
        (["source"], "--param source: expected NAME=VALUE"),
        (["source= "], "--param source: expected a value, found none (the raw dataset: "),
        (["epochs=1", "epochs=2"], "--param epochs: expected it once, found it twice"),
        (["swin_config="], "--param swin_config: expected a config's name, path or address, found ''"),
        (
            ["swin_resume_from=s3://b/m.json", "swin_pretrained=none"],
            "--param swin_resume_from: expected no swin_pretrained with it, found 'none'",
        ),
        (["weights=auto", "splits=test"], "--param weights=auto: expected val among the splits, found splits=test"),
        (["weights=0e5,0"], "--param weights: expected equal, auto, or numbers of at least 0 and not all 0"),
        (["weights=1e400,1"], "--param weights: expected equal, auto, or numbers of at least 0 and not all 0"),
        (["epochs=many"], "--param epochs: expected a whole number, found 'many'"),
        (["epochs=1.5"], "expected a whole number"),
        (["epochs=true"], "expected a whole number"),
        (["swin_lr=NaN"], "expected a number"),
        (["tolerations={}"], "expected a JSON list"),
        (["precision=fp8"], "--param precision: expected one of auto, fp32, fp16, bf16, found 'fp8'"),
        (["tta=vh"], "--param tta: expected one of none, h, hv, d4, found 'vh'"),
        (["on_bad_tile=skipp"], "expected one of fail, skip, found 'skipp'"),
        (["swin_export_workers=0"], "--param swin_export_workers: expected at least 1, found 0"),
        (["epochs=-1"], "--param epochs: expected at least 0, found -1"),
        (["gpus=two"], "--param gpus: expected a whole number, found 'two'"),
        (["run_id=my run"], "--param run_id: expected letters, digits, '.', '_' and '-' (at most 63), found 'my run'"),
        (["weights=0.3:0.7"], "--param weights: expected equal, auto, or numbers of at least 0 and not all 0"),
        (["splits=vall"], "--param splits: expected different ones of train, val, test, separated by commas, found"),
        (["views=each", "tta=none"], "--param views=each: expected tta=h or hv or d4 with it, found none"),
        (["gpus=-1"], "--param gpus: expected a whole number, found '-1'"),
        (["swin_lr=1e999"], "--param swin_lr: expected a number, found '1e999'"),
        (['swin_cfg_options={"model.a": 1e999}'], "--param swin_cfg_options: expected a JSON object, found"),
        (["seed=9007199254740993"], "--param seed: expected at most 9007199254740992, found 9007199254740993"),
        (["gpus=9007199254740993"], "--param gpus: expected at most 9007199254740992"),
        (
            ['node_selector={"pool": 1}'],
            """--param node_selector: expected a label's value, text such as "gpu", for pool""",
        ),
        (['node_selector={"a pool": "x"}'], "expected the name of a label, such as pool or example.com/pool, found"),
        (['node_selector={"pool": "two words"}'], "for pool, found 'two words'"),
        (["tolerations=[1]"], """expected tolerations such as {"key": "pool", "operator": "Exists"}, found 1"""),
        (['tolerations=[{"keys": "pool"}]'], "in a toleration, found 'keys'"),
        (['tolerations=[{"key": "pool", "effect": "noschedule"}]'], "expected one of NoSchedule, PreferNoSchedule, No"),
        (['tolerations=[{"key": "pool", "value": true}]'], "expected text as a toleration's value, found True"),
        (['tolerations=[{"value": "gpu"}]'], "expected a key, or the operator Exists, in each toleration, found"),
        (
            ['tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]'],
            "expected no value with the operator Exists",
        ),
        (
            ['tolerations=[{"key": "a", "tolerationSeconds": 5}]'],
            "expected the effect NoExecute with tolerationSeconds",
        ),
        (
            ['tolerations=[{"key": "a", "effect": "NoExecute", "tolerationSeconds": "5"}]'],
            "expected a whole number of seconds as tolerationSeconds, found '5'",
        ),
    ],
)
def test_wrong_parameters(given: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_parameters(PACKAGE, given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("model_uris= ,", "--param model_uris: expected a value, found none"),
        ("weights=auto", "--param weights=auto: expected val among the splits, found splits=test"),
    ],
)
def test_wrong_parameters_of_a_prediction(given: str, said: str) -> None:
    others = [pair for pair in (*NEEDED, "model_uris=s3://b/m.json") if not given.startswith(pair.partition("=")[0])]
    with pytest.raises(UserError) as caught:
        parse_parameters(package("predict"), [*others, given])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        'node_selector={"cloud.google.com/gke-nodepool": "gpu", "spare": ""}',
        'tolerations=[{"operator": "Exists", "effect": "NoSchedule"}, {"key": "a.b/c", "value": "x"}]',
        'tolerations=[{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]',
    ],
)
def test_placement_that_kubernetes_takes(given: str) -> None:
    name, _, text = given.partition("=")
    assert parse_parameters(PACKAGE, [*NEEDED, given])[name] == json.loads(text)


@pytest.mark.parametrize("content", [None, "", "a: [", "just text", "{}"])
def test_what_is_no_compiled_pipeline(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="expected a compiled pipeline"):
        parse_parameters(path, [])
