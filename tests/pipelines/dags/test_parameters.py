"""Everything made from the table of parameters (src/landseg/contracts/parameters.toml) agrees with it.

landseg and the components each have a reader of their own; this reads the table without either.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from components import parameters as of_components
from components.images import ROOT
from components.models import MODELS
from landseg.cli.main import stage_parser
from landseg.contracts import parameters as of_landseg
from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import ConfigError
from landseg.contracts.labels import LayerName
from landseg.contracts.names import RUN_ID
from landseg.contracts.probabilities import Tta
from landseg.probabilities.codec import DTYPES, FEW_CLASSES
from pipelines.arguments import parse_parameters
from pipelines.errors import UserError

TABLE: dict[str, dict[str, Any]] = tomllib.loads(of_landseg.TABLE.read_text())
VERBS = ("plan-stage", "stage-data", "plan-export", "train", "export-probs", "plan-average", "average-probs")
NOT_IN_THE_TABLE = {
    "stage-data": {"shard_bytes", "num_workers"},
    "plan-stage": set(),
    "plan-export": set(),
    "train": {
        "name",
        "cpu_processes",
        "compile",
        "num_workers",
        "cache_bytes",
        "decoded_bytes",
        "tile_order",
    },
    "export-probs": {"name", "num_workers", "trust_modules", "cache_bytes"},
    "plan-average": set(),
    "average-probs": {"png_dir", "mosaic", "polygons", "num_workers"},
}
COMMON = {"attempts", "output_dir", "scratch", "executor_input", "help", "verbosity"}
KFP_TYPES = {"str": "STRING", "int": "NUMBER_INTEGER", "float": "NUMBER_DOUBLE"}
KFP_TYPES |= {"bool": "BOOLEAN", "dict": "STRUCT", "list": "LIST"}
WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "dict": "JSON object"}
COMPONENTS = {
    **{verb.replace("-", "_"): (verb, "") for verb in VERBS if verb != "train"},
    **{f"train_{model}": ("train", model) for model in MODELS},
}
PIPELINES = ("train-and-ensemble", "predict")
MISSING = object()
CHECKED = {"choices", "minimum", "maximum", "pattern", "each_of", "requires"}
ALIKE = {"class_weights", "dtype", "join", "seen_val", "on_bad_tile", "sampling", "selection"}
"""Parameters with choices alone, as `precision` has them."""
PACKAGES = {
    "plan-stage": "predict",
    "plan-export": "predict",
    "plan-average": "predict",
    "train": "train-swin",
    **{verb: verb for verb in ("stage-data", "export-probs", "average-probs")},
}
GOOD = {
    "run_id": 3,
    "splits": 4,
    "weights": 7,
    "layers": 3,
    "tta": 4,
    "precision": 1,
    "export_precision": 1,
    "temperature": 1,
}
"""How many of `VALUES` are right, where not two."""


def flag(name: str) -> str:
    return f"--{TABLE[name].get('flag', name).replace('_', '-')}"


def kfp_type(name: str) -> str:
    return str(TABLE[name].get("kfp_type", TABLE[name]["type"]))


def described(entry: dict[str, Any]) -> str:
    choices = entry.get("choices", [])
    explained = all(f"{choice}: " in entry["help"] for choice in choices)
    return entry["help"] if explained else f"{entry['help']} ({', '.join(choices)})"


def test_both_readers_together_know_every_field() -> None:
    known = [{field.name for field in dataclasses.fields(reader.Parameter)} for reader in (of_landseg, of_components)]
    for name, entry in TABLE.items():
        assert entry.keys() <= set.union(*known), name
        assert of_landseg.parameters()[name].name == of_components.parameters()[name].name == name


@pytest.mark.parametrize("verb", VERBS)
def test_the_flags_of_a_verb(verb: str) -> None:
    actions = {option: action for action in stage_parser(verb)._actions for option in action.option_strings}
    mine = [name for name, entry in TABLE.items() if verb in entry["verbs"]]
    assert {action.dest for action in actions.values()} == (
        {flag(name)[2:].replace("-", "_") for name in mine}
        | NOT_IN_THE_TABLE[verb]
        | (COMMON - {"output_dir"} if verb.startswith("plan-") else COMMON)
    )
    for name in mine:
        entry, action = TABLE[name], actions[flag(name)]
        required = "default" not in entry or "flag" in entry.get("required_in", [])
        default = [] if entry.get("repeatable") or entry["type"] == "dict" else entry.get("default")
        assert action.required == required, name
        if not required:
            assert action.default == (None if "unset" in entry else default), name
        kind = "str" if entry["type"] == "dict" else entry["type"]
        assert (action.type or str).__name__.strip("_") == kind, name
        assert list(action.choices or []) == entry.get("choices", []), name
        assert action.help.startswith(entry["help"]), name


VALUES = {
    "run_id": ["first", "2024-05_a.b", "a" * 63, "my run", "", ".", "a/b", "-a", "a" * 64, "é", "a\n"],
    "splits": ["val", "val,test", " val , test ", "val,,test", "", ",", "vall", "val,val", "Val", "val test"],
    "train_splits": ["train", "train,val", "train,train", "", "all"],
    "weights": [
        *("", "equal", "auto", "0.3,0.7", "1,2", ".5, 1e-3", "0,1"),
        *("0,0", "0.3:0.7", "a,b", "-1,2", "nan,1", "inf,1", "0.3,", "Equal", "0e5,0", "1e400,1", "1e-400,0"),
    ],
    "config": ["swin", "a folder/config.py", "", " "],
    "layers": ["", "entropy", "entropy,disagreement", "entropy,entropy", "entrop"],
    "worker": ["1/1", "2/10", "", "1", "1/1/1", "a/b"],
    "workers": ["1", "64", "0", "-1", "65"],
    "stage_workers": ["1", "64", "0", "-1", "65"],
    "average_workers": ["1", "64", "0", "-1", "65"],
    "tta": ["none", "h", "hv", "d4", "vh", ""],
    "precision": ["bf16", "fp8"],
    "export_precision": ["bf16", "fp8"],
    "batch_size": ["auto", "16", "0", "many", "-1"],
    "checkpoint_minutes": ["0", "2.5", "-1"],
    "temperature": ["none", "warm"],
    "views": ["mean", "each", "all"],
    **{name: ["0", "1", "-1"] for name in ("epochs", "batch_per_gpu", "lr", "seed", "gpus", "max_bad", "patience")},
    **{name: ["0", "1", "-1"] for name in ("checkpoint_interval", "keep")},
}
"""By parameter: values that are right and values that are not, which both readers must tell apart alike."""


def stage_refuses(verb: str, *flags: str) -> str:
    parser = stage_parser(verb)
    given = {part.partition("=")[0] for part in flags}
    needed = [action.option_strings[0] for action in parser._actions if action.required]
    try:
        args = parser.parse_args([*(f"{name}=x" for name in needed if name not in given), *flags])
        of_landseg.check_values(verb, args)
    except (ConfigError, SystemExit) as err:
        return str(err)
    return ""


@functools.cache
def head(pipeline: str) -> Path:
    """A compiled pipeline without its steps, which take long to read."""
    root = {"inputDefinitions": {"parameters": declared_in(ROOT / "pipelines" / "compiled" / f"{pipeline}.yaml")}}
    path = Path(tempfile.mkdtemp()) / f"{pipeline}.yaml"
    path.write_text(json.dumps({"root": root}))
    return path


def submit_refuses(pipeline: str, *given: str) -> str:
    package = head(pipeline)
    declared = json.loads(package.read_text())["root"]["inputDefinitions"]["parameters"]
    named = {part.partition("=")[0] for part in given}
    needed = [name for name, spec in declared.items() if not spec.get("isOptional") and name not in named]
    try:
        parse_parameters(package, [*(f"{name}=x" for name in needed), *given])
    except UserError as err:
        return str(err)
    return ""


def test_submit_refuses_what_the_stage_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert {name for name, entry in TABLE.items() if entry.keys() & CHECKED} - VALUES.keys() == ALIKE
    for name, values in VALUES.items():
        verb = TABLE[name]["verbs"][0]
        verb = "export-probs" if verb == "plan-export" and name != "workers" else verb
        verb = "average-probs" if verb == "plan-average" and name != "average_workers" else verb
        for value in values:
            own = TABLE[name].get("pipeline_name", name) if PACKAGES[verb] == "predict" else name
            more = ["probs_uris=a,b"] if verb == "average-probs" else []
            there = stage_refuses(verb, f"{flag(name)}={value}")
            here = submit_refuses(PACKAGES[verb], f"{own}={value}", *more)
            assert bool(there) == bool(here), (name, value, there, here)
            accepted = values.index(value) < GOOD.get(name, 2)
            assert bool(here) != accepted, (name, value, here)


def test_choices_that_need_another() -> None:
    for good, bad, verb in (
        (["views=each"], ["views=each", "tta=none"], "export-probs"),
        (["temperature=auto", "weights=auto"], ["temperature=auto"], "average-probs"),
    ):
        assert not submit_refuses("predict", "splits=val", *good)
        assert not stage_refuses(verb, *(f"--{one}" for one in good))
        assert "with it, found" in submit_refuses("predict", *bad)
        assert "with it, found" in stage_refuses(verb, *(f"--{one}" for one in bad))


def test_one_weight_per_model() -> None:
    assert "expected 2 numbers, one per model, found 3" in submit_refuses("train-and-ensemble", "weights=1,2,3")
    assert "expected 2 numbers, one per model, found 3" in submit_refuses("predict", "weights=1,2,3", "model_uris=a,b")
    assert not submit_refuses("predict", "weights=1,2,3", "model_uris=a,b,c")
    assert not submit_refuses("average-probs", "weights=1,2,3", "probs_uris=a,b,c")
    assert "expected 3 numbers" in submit_refuses("average-probs", "weights=1", "probs_uris=a,b,c")


def test_the_name_of_a_run_has_one_pattern() -> None:
    assert TABLE["run_id"]["pattern"] == RUN_ID


def test_choices_are_those_of_the_code() -> None:
    assert TABLE["tta"]["choices"] == list(get_args(Tta))
    assert TABLE["dtype"]["choices"] == ["auto", *sorted(DTYPES)]
    assert f"for up to {FEW_CLASSES} classes" in TABLE["dtype"]["help"]
    assert TABLE["layers"]["help"].endswith(f": {', '.join(get_args(LayerName))}")
    assert TABLE["layers"]["each_of"] == list(get_args(LayerName))
    assert TABLE["splits"]["each_of"] == TABLE["train_splits"]["each_of"] == list(SPLITS)


def declared_in(path: Path) -> dict[str, Any]:
    spec = next(yaml.safe_load_all(path.read_text()))
    (component,) = spec["components"].values() if path.name == "component.yaml" else [spec["root"]]
    return dict(component["inputDefinitions"]["parameters"])


def check_declared(found: dict[str, Any], name: str, default: Any) -> None:
    """Compare one parameter in compiled YAML; a falsy default is a default too."""
    assert found["parameterType"] == KFP_TYPES[kfp_type(name)]
    assert found["description"] == f"{described(TABLE[name])}."
    assert found.get("defaultValue", MISSING) == (
        str(default) if kfp_type(name) == "str" and default is not MISSING else default
    )
    assert found.get("isOptional", False) == (default is not MISSING)


@pytest.mark.parametrize("folder", COMPONENTS)
def test_the_parameters_of_a_component(folder: str) -> None:
    stage, model = COMPONENTS[folder]
    declared = declared_in(ROOT / "components" / folder / "component.yaml")
    mine = [name for name, entry in TABLE.items() if stage in entry.get("components", entry["verbs"])]
    assert declared.keys() == set(mine)
    for name in mine:
        default = TABLE[name].get("default", MISSING)
        check_declared(declared[name], name, model if default == "{model}" else default)


@pytest.mark.parametrize("folder", COMPONENTS)
def test_the_command_of_a_component(folder: str) -> None:
    stage, model = COMPONENTS[folder]
    spec = next(yaml.safe_load_all((ROOT / "components" / folder / "component.yaml").read_text()))
    (executor,) = spec["deploymentSpec"]["executors"].values()
    mine = [name for name in TABLE if stage in TABLE[name].get("components", TABLE[name]["verbs"])]
    flags = [
        word for name in mine if TABLE[name]["verbs"] for word in (flag(name), f"{{{{$.inputs.parameters['{name}']}}}}")
    ]
    assert executor["container"]["command"] == ["landseg", stage]
    fixed = ["--attempts", "3", "--executor-input", "{{$}}"]
    assert executor["container"]["args"] == [*(["--name", model] if model else []), *flags, *fixed]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_parameters_of_a_pipeline(pipeline: str) -> None:
    declared = declared_in(ROOT / "pipelines" / "compiled" / f"{pipeline}.yaml")
    expected = {}
    for name, entry in TABLE.items():
        if pipeline in entry["pipelines"]:
            own = entry.get("pipeline_name", name)
            for model in MODELS if pipeline in entry.get("per_model", []) else [""]:
                default = entry.get("defaults_in", {}).get(pipeline, entry.get("default", MISSING))
                default = MISSING if pipeline in entry.get("required_in", []) else default
                expected[f"{model}_{own}" if model else own] = (name, model if default == "{model}" else default)
    assert declared.keys() == expected.keys()
    for own, (name, default) in expected.items():
        check_declared(declared[own], name, default)


def plain(cell: str) -> str:
    """A cell of a table without code marks, and links by their text alone."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).replace("`", "").replace(r"\|", "|")


@pytest.mark.parametrize("folder", COMPONENTS)
def test_the_table_in_the_readme_of_a_component(folder: str) -> None:
    stage, model = COMPONENTS[folder]
    text = (ROOT / "components" / folder / "README.md").read_text()
    cells = [re.split(r"(?<!\\) \| ", line.strip("|").strip()) for line in text.splitlines() if line.startswith("| `")]
    rows = {plain(name): rest for name, *rest in cells}
    mine = {name: TABLE[name] for name in TABLE if stage in TABLE[name].get("components", TABLE[name]["verbs"])}
    assert mine.keys() <= rows.keys()
    for name, entry in mine.items():
        default = entry.get("default", "required")
        default = str(default).lower() if isinstance(default, bool) else default
        shown = "empty" if default == "" else f"`{default}`".replace("{model}", model)
        kind, documented, text = rows[name]
        assert (kind, documented, plain(text)) == (
            WORDS[kfp_type(name)],
            shown.replace("`required`", "required"),
            described(entry),
        )
