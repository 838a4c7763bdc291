"""What a change reruns, by KFP's own cache on the compiled pipeline; the table of docs/kubeflow.md.

The steps are stand-ins whose outputs depend on their command and inputs, as those of the stages do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from pipelines import local
from pipelines.compile import package, with_images
from pipelines.parameters import parse_parameters

STAND_IN = """
import hashlib, json, sys
from landseg.kfp_io import ExecutorInput
*argv, text = sys.argv[1:]
parsed = ExecutorInput.parse(text)
inputs = {name: [item["metadata"] for item in items] for name, items in parsed.inputs.items()}
result = hashlib.sha256(json.dumps([argv, inputs], sort_keys=True).encode()).hexdigest()
for name in parsed.outputs.artifacts:
    parsed.outputs.write(name, result)
    parsed.outputs.metadata(name, {"sha256": result})
parsed.outputs.close()
"""
GIVEN = {"source": "/tiles", "storage_uri": "/storage", "run_id": "r", "source_version": "1"}
TRAINS = {"train-swin", "train-resnest"}
EXPORTS = {"export-probs-swin", "export-probs-resnest"}
SWIN = {"train-swin", "export-probs-swin", "average-probs"}
AFTER_STAGING = TRAINS | EXPORTS | {"average-probs"}
ALL = AFTER_STAGING | {"stage-data"}
CHANGES: list[tuple[str, str, set[str]]] = [
    ("source", "/other", ALL),
    ("source_version", "2", ALL),
    ("storage_uri", "/other", ALL),
    ("on_bad_tile", "skip", ALL),
    ("max_bad", "3", ALL),
    ("run_id", "other", AFTER_STAGING),
    ("swin_config", "swin_tiny", SWIN),
    ("swin_lr", "0.001", SWIN),
    ("swin_pretrained", "none", SWIN),
    ("epochs", "3", AFTER_STAGING),
    ("batch_per_gpu", "4", AFTER_STAGING),
    ("seed", "1", AFTER_STAGING),
    ("train_splits", "train,val", AFTER_STAGING),
    ("class_weights", "inverse-frequency", AFTER_STAGING),
    ("precision", "fp32", AFTER_STAGING),
    ("gpus", "1", AFTER_STAGING),
    ("splits", "val", EXPORTS | {"average-probs"}),
    ("tta", "none", EXPORTS | {"average-probs"}),
    ("dtype", "uint8", EXPORTS | {"average-probs"}),
    ("weights", "0.3,0.7", {"average-probs"}),
    ("node_selector", '{"pool": "gpu"}', set()),
    ("tolerations", '[{"operator": "Exists"}]', set()),
]


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
    assert parameters == {name for name, _, _ in CHANGES} | {"resnest_config", "resnest_lr", "resnest_pretrained"}


def test_another_image_tag_reruns_everything(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "train-and-ensemble.yaml"
    path.write_text(with_images(package("train-and-ensemble").read_text(), "", "9.9.9"))
    assert bench.rerun(path) == ALL
    assert bench.rerun(path) == set()
