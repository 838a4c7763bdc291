"""What a change reruns, according to KFP's own cache and the compiled pipeline; the table of docs/kubeflow.md.

The steps are stand-ins whose outputs depend on their command and inputs, as those of the stages do.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from compiled_pipeline import Compiled

from components.images import ROOT
from pipelines.arguments import parse_parameters
from pipelines.dags.packages import package, with_images
from pipelines.local import runner as local

STAND_IN = """
import hashlib, json, sys
from landseg.contracts.executor import ExecutorInput
*argv, text = sys.argv[1:]
parsed = ExecutorInput.parse(text)
inputs = {name: [item["metadata"] for item in items] for name, items in parsed.inputs.items()}
result = hashlib.sha256(json.dumps([argv, inputs], sort_keys=True).encode()).hexdigest()
for name in parsed.outputs.artifacts:
    parsed.outputs.write(name, result)
    parsed.outputs.metadata(name, {"sha256": result})
for name in parsed.outputs.parameter_files:
    workers = int(argv[argv.index("--workers") + 1])
    shares = [f"{i + 1}/{workers}" for i in range(workers)]
    models = argv[argv.index("--models") + 1].split(",") if "--models" in argv else []
    exports = [{"model_uri": model, "worker": share} for model in filter(None, models) for share in shares]
    averages = [{"probs_uris": result, "worker": share} for share in shares]
    parsed.outputs.parameter(name, {"shares": shares, "exports": exports, "averages": averages}[name])
parsed.outputs.close()
"""
GIVEN = {"source": "/tiles", "storage_uri": "/storage", "run_id": "r", "source_version": "1", "weights": "auto"}
TRAINS = {"train-swin", "train-resnest"}
PLANS = {"plan-export-swin", "plan-export-resnest"}
EXPORTS = {"export-probs-swin", "export-probs-resnest"}
AVERAGE = {"plan-average", "average-probs"}
SWIN = {"train-swin", "export-probs-swin"} | AVERAGE
AFTER_TRAINING = EXPORTS | AVERAGE
WITH_RUN = TRAINS | AFTER_TRAINING
AFTER_STAGING = WITH_RUN | PLANS
ALL = AFTER_STAGING | {"stage-data"}
CHANGES: list[tuple[str, str, set[str]]] = [
    ("source", "/other", ALL),
    ("source_version", "2", ALL),
    ("storage_uri", "/other", ALL),
    ("on_bad_tile", "skip", ALL),
    ("max_bad", "3", ALL),
    ("run_id", "other", WITH_RUN),
    ("swin_config", "swin_tiny", SWIN),
    ("swin_cfg_options", '{"optimizer.lr": 0.01}', SWIN),
    ("swin_lr", "0.001", SWIN),
    ("swin_pretrained", "none", SWIN),
    ("swin_resume_from", "s3://bucket/landseg/runs/r/train/swin/k/manifest.json", SWIN),
    ("epochs", "3", WITH_RUN),
    ("batch_per_gpu", "4", WITH_RUN),
    ("seed", "1", WITH_RUN),
    ("train_splits", "train,val", WITH_RUN),
    ("class_weights", "inverse-frequency", WITH_RUN),
    ("sampling", "rare-classes", WITH_RUN),
    ("selection", "best", WITH_RUN),
    ("patience", "3", WITH_RUN),
    ("precision", "fp32", WITH_RUN),
    ("gpus", "1", WITH_RUN),
    ("checkpoint_interval", "100", WITH_RUN),
    ("checkpoint_minutes", "2.5", WITH_RUN),
    ("keep_checkpoints", "3", WITH_RUN),
    ("deterministic", "true", WITH_RUN),
    ("swin_export_workers", "2", {"plan-export-swin", "export-probs-swin"} | AVERAGE),
    ("stage_workers", "2", {"plan-stage", "stage-data-share"}),
    ("average_workers", "2", AVERAGE),
    ("splits", "val", PLANS | AFTER_TRAINING),
    ("tta", "none", AFTER_TRAINING),
    ("views", "each", AFTER_TRAINING),
    ("dtype", "uint8", AFTER_TRAINING),
    ("export_precision", "fp32", AFTER_TRAINING),
    ("export_batch_size", "2", AFTER_TRAINING),
    ("weights", "0.3,0.7", AVERAGE),
    ("temperature", "auto", AVERAGE),
    ("seen_val", "fit", AVERAGE),
    ("layers", "entropy", AVERAGE),
    ("node_selector", '{"pool": "gpu"}', set()),
    ("tolerations", '[{"operator": "Exists"}]', set()),
]


PREDICT = {"model_uris": "a,b", "splits": "val,test"}
WORDS = {  # of the table in the documentation
    frozenset(ALL): "every step",
    frozenset(WITH_RUN): "trainings, exports, the average",
    frozenset(SWIN): "the model's training and export, the average",
    frozenset({"plan-export-swin", "export-probs-swin"} | AVERAGE): "the model's plan and export, the average",
    frozenset(PLANS | AFTER_TRAINING): "plans, exports, the average",
    frozenset(AFTER_TRAINING): "exports, the average",
    frozenset(AVERAGE): "the average",
    frozenset({"plan-stage", "stage-data-share"}): "the shares of stage-data",
    frozenset(): "nothing",
}


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder, folder / "stand_in.py"
        self.script.write_text(STAND_IN)

    def rerun(self, path: Path, **changed: str) -> set[str]:
        parameters = parse_parameters(path, [f"{name}={value}" for name, value in {**GIVEN, **changed}.items()])
        runs = local.run(
            path,
            parameters,
            self.folder / "kfp",
            launcher=lambda image, command: [sys.executable, str(self.script), *command],
            say=lambda line: None,
        )
        return {run.name for run in runs if not run.cached}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("cache"))
    assert bench.rerun(package("train-and-ensemble")) == ALL
    return bench


def test_a_repeated_run_reruns_nothing(bench: Bench) -> None:
    assert bench.rerun(package("train-and-ensemble")) == set()


@pytest.mark.parametrize(("name", "value", "expected"), CHANGES, ids=[name for name, _, _ in CHANGES])
def test_a_changed_parameter_reruns_what_depends_on_it(bench: Bench, name: str, value: str, expected: set[str]) -> None:
    assert bench.rerun(package("train-and-ensemble"), **{name: value}) == expected


def test_every_parameter_is_in_the_table() -> None:
    spec = next(yaml.safe_load_all(package("train-and-ensemble").read_text()))
    parameters = set(spec["root"]["inputDefinitions"]["parameters"])
    assert parameters == {name for name, _, _ in CHANGES} | {
        "resnest_config",
        "resnest_cfg_options",
        "resnest_lr",
        "resnest_pretrained",
        "resnest_resume_from",
        "resnest_export_workers",
    }


def test_another_image_tag_reruns_everything(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "train-and-ensemble.yaml"
    path.write_text(with_images(package("train-and-ensemble").read_text(), "", "9.9.9"))
    assert bench.rerun(path) == ALL
    assert bench.rerun(path) == set()


def test_predict_reruns_what_depends_on_a_model(bench: Bench) -> None:
    steps = {"plan-export", "export-probs"} | AVERAGE  # the tiles are staged already
    assert bench.rerun(package("predict"), **PREDICT) == steps
    assert bench.rerun(package("predict"), **PREDICT) == set()
    assert bench.rerun(package("predict"), **PREDICT | {"model_uris": "a,b,c,d,e,f"}) == steps
    assert bench.rerun(package("predict"), **PREDICT, export_workers="2") == steps


@pytest.mark.parametrize("name", ["train-and-ensemble", "predict"])
def test_the_compiled_steps_let_kfp_reuse_them(name: str) -> None:
    compiled = Compiled.parse(package(name).read_text())
    steps = [task for _, _, _, task, component in compiled.tasks() if component.HasField("executor_label")]
    assert all(task.caching_options.enable_cache and not task.caching_options.cache_key for task in steps)


def test_the_table_in_the_documentation() -> None:
    section = (ROOT / "docs" / "kubeflow.md").read_text().partition("## What a change reruns")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
    documented = {name: words for cell, words in rows for name in re.findall(r"`(\w+)`", cell)}
    assert documented == {name: WORDS[frozenset(steps)] for name, _, steps in CHANGES}
    assert ["an image's tag", "every step"] in rows
