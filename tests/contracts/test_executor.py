"""The executor protocol: what KFP passes and what it reads back."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from kfp.pipeline_spec import pipeline_spec_pb2

from landseg.contracts.errors import ConfigError
from landseg.contracts.executor import ExecutorInput, Outputs, artifact_path, sanitise

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def executor_input(folder: Path) -> str:
    artifact = {"name": "x", "type": {"schemaTitle": "system.Metrics"}, "uri": f"{folder}/task/metrics", "metadata": {}}
    return json.dumps(
        {
            "inputs": {
                "parameterValues": {"epochs": 3},
                "artifacts": {"dataset": {"artifacts": [{"name": "d", "uri": "minio://mlpipeline/v2/dataset"}]}},
            },
            "outputs": {
                "artifacts": {"metrics": {"artifacts": [artifact]}},
                "parameters": {"best": {"outputFile": f"{folder}/task/best"}},
                "outputFile": f"{folder}/deep/executor_output.json",
            },
        }
    )


def test_outputs_go_where_kfp_says_and_its_own_parser_reads_them(tmp_path: Path) -> None:
    parsed = ExecutorInput.parse(executor_input(tmp_path))
    assert artifact_path(parsed.inputs["dataset"][0]) == Path("/minio/mlpipeline/v2/dataset")
    parsed.outputs.write("metrics", "ignored by the UI")
    parsed.outputs.metadata("metrics", {"mIoU": 0.5, "worst": math.nan, "none": None, "rows": [1, math.inf, 2]})
    parsed.outputs.parameter("best", 3)
    parsed.outputs.close()
    assert (tmp_path / "task/metrics").read_text() == "ignored by the UI"
    assert (tmp_path / "task/best").read_text() == "3"
    text = (tmp_path / "deep/executor_output.json").read_text()
    message = json_format.Parse(text, pipeline_spec_pb2.ExecutorOutput())
    metadata = json_format.MessageToDict(message.artifacts["metrics"].artifacts[0].metadata)
    assert metadata == {"mIoU": 0.5, "rows": [1, 2]}


def test_an_artifact_nobody_wrote_still_gets_a_file(tmp_path: Path) -> None:
    ExecutorInput.parse(executor_input(tmp_path)).outputs.close()
    assert (tmp_path / "task/metrics").exists()


def test_outside_kfp_outputs_go_to_a_folder(tmp_path: Path) -> None:
    outputs = Outputs(directory=tmp_path / "made/here")
    assert outputs.write("report", "<html>", ".html") == tmp_path / "made/here/report.html"
    outputs.metadata("report", {"a": 1})
    outputs.close()
    assert [path.name for path in (tmp_path / "made/here").iterdir()] == ["report.html"]
    assert Outputs().write("report", "<html>") is None


def test_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    full = {"report": {"name": "report", "uri": "/dev/full"}}
    for write in (
        lambda: Outputs(artifacts=full).write("report", "x"),
        lambda: Outputs(output_file=Path("/dev/full")).close(),
        lambda: Outputs(directory=Path("/dev/null/x")).write("report", "x"),
    ):
        with pytest.raises(ConfigError, match=r"^/dev/(full|null/x/report): cannot be written: n"):
            write()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/a/b", "/s3/bucket/a/b"),
        ("gs://bucket/a", "/gcs/bucket/a"),
        ("minio://bucket/a", "/minio/bucket/a"),
        ("oci://registry/a", "/oci/registry/a"),
        ("/local/a", "/local/a"),
    ],
)
def test_artifact_paths(uri: str, path: str) -> None:
    assert artifact_path({"uri": uri}) == Path(path)
    assert artifact_path({"uri": uri, "customPath": "/elsewhere"}) == Path("/elsewhere")


CLIMBING = '{"outputs": {"artifacts": {"a": {"artifacts": [{"uri": "s3://bucket/../../etc/passwd"}]}}}}'


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', '{"outputs": 3}', "[" * 100_000, CLIMBING])
def test_what_is_no_executor_input_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="executor input"):
        ExecutorInput.parse(text)


def test_an_oversized_executor_input_is_refused_unread() -> None:
    with pytest.raises(ConfigError, match="at most"):
        ExecutorInput.parse(" " * (17 << 20))


def paths(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, child in children for found in paths(child, (*path, key)))][bool(not path) :]


@given(st.data(), JSON)
def test_fuzzed_executor_input_parses_or_is_refused(data: st.DataObject, value: object) -> None:
    document = json.loads(executor_input(Path("/tmp")))
    *parents, last = data.draw(st.sampled_from(paths(document)))
    node = document
    for key in parents:
        node = node[key]
    node[last] = value
    try:
        parsed = ExecutorInput.parse(json.dumps(document))
    except ConfigError:
        return
    for artifacts in parsed.inputs.values():
        assert all(isinstance(artifact_path(artifact), Path) for artifact in artifacts)


@given(st.text())
def test_fuzzed_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        ExecutorInput.parse(text)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_what_is_sanitised_is_accepted_by_protobuf(values: dict[str, object]) -> None:
    text = json.dumps({"artifacts": {"a": {"artifacts": [{"name": "a", "metadata": sanitise(values)}]}}})
    json_format.Parse(text, pipeline_spec_pb2.ExecutorOutput())


def test_numpy_scalars_are_numbers_and_unknown_types_are_refused() -> None:
    assert sanitise({"a": np.float32(0.5), "b": np.int64(3), "c": np.float64("nan")}) == {"a": 0.5, "b": 3}
    with pytest.raises(TypeError, match="KFP metadata"):
        sanitise({"a": object()})
