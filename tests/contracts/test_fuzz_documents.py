"""Documents made of arbitrary and mutated bytes end in one line, never in a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import JSON, broken_bytes, broken_json
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_examples import MANIFESTS, first_labels, first_probs, reference
from pydantic import ValidationError

from landseg import storage
from landseg.contracts.documents import Blob, Document, blobs, describe, parse_json
from landseg.contracts.errors import ContractError, LandsegError, StorageError
from landseg.contracts.executor import ExecutorInput
from landseg.contracts.references import Reference
from landseg.contracts.yaml_documents import parse_yaml
from landseg.storage.uris import split

FOLDER = "s3://bucket/datasets/one"
KINDS = [*MANIFESTS, first_labels, first_probs, reference]


def parses_or_is_refused(kind: type[Document], data: bytes) -> None:
    """Nothing but a ContractError of one line; what is accepted is safe and can be written and read again."""
    try:
        document = kind.parse(data, "here")
    except ContractError as err:
        assert "\n" not in str(err)
        assert len(str(err)) < 5000
        return
    assert kind.parse(document.to_bytes(), "here") == document
    for blob in blobs(document):
        try:
            uri = storage.join(FOLDER, blob.path)
            split(uri)
        except StorageError:
            continue  # refused where it is read
        assert uri.startswith((FOLDER + "/", "s3://bucket/datasets/shards/"))
        assert os.path.normpath(f"/d/one/{blob.path}").startswith(("/d/one/", "/d/shards/"))


def fuzz(example: Callable[[], Document], count: int) -> None:
    document = example()
    data = document.to_bytes()
    broken = broken_json(json.loads(data)) | broken_bytes(data) | st.binary() | JSON.map(json.dumps).map(str.encode)

    @settings(max_examples=count)
    @given(broken)
    def run(data: bytes) -> None:
        parses_or_is_refused(type(document), data)

    run()


@pytest.mark.parametrize("example", KINDS)
def test_broken_documents_parse_or_are_refused(example: Callable[[], Document]) -> None:
    fuzz(example, 150)


def test_a_field_of_any_name_is_a_short_line() -> None:
    document = json.loads(reference().to_bytes()) | {"x" * 100_000: 1}
    with pytest.raises(ContractError) as caught:
        Reference.parse(json.dumps(document).encode(), "here")
    assert len(str(caught.value)) < 300


@pytest.mark.slow
@pytest.mark.parametrize("example", KINDS)
def test_many_broken_documents_parse_or_are_refused(example: Callable[[], Document]) -> None:
    fuzz(example, 1500)


EXECUTOR_INPUT = {
    "inputs": {
        "parameterValues": {"a": 1},
        "artifacts": {"dataset": {"artifacts": [{"name": "x", "uri": "s3://b/x", "metadata": {"k": "v"}}]}},
    },
    "outputs": {
        "outputFile": "/tmp/out.json",
        "parameters": {"p": {"outputFile": "/tmp/p"}},
        "artifacts": {"report": {"artifacts": [{"name": "r", "uri": "/tmp/r", "metadata": {}}]}},
    },
}


def fuzz_executor_input(count: int) -> None:
    @settings(max_examples=count)
    @given(broken_json(EXECUTOR_INPUT).map(bytes.decode) | st.text())
    def run(text: str) -> None:
        try:
            parsed = ExecutorInput.parse(text)
        except LandsegError as err:
            assert "\n" not in str(err)
            return
        assert all(isinstance(path, Path) for path in parsed.outputs.parameter_files.values())

    run()


def test_broken_executor_inputs_parse_or_are_refused() -> None:
    fuzz_executor_input(150)


@pytest.mark.slow
def test_many_broken_executor_inputs_parse_or_are_refused() -> None:
    fuzz_executor_input(1500)


@settings(max_examples=300)
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_parse_as_json_and_yaml_or_are_refused(data: bytes) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(data, "here")
        except ContractError as err:
            assert "\n" not in str(err)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 5_000,
        b"1" * 10_000,
        b"\xef\xbb\xbf{}",
        b"- " * 5_000,
        b"&a [*a]",
        b'{"kind": NaN}',
        b"[1e999]",
    ],
)
def test_hostile_json_and_yaml(data: bytes) -> None:
    for parse in (parse_json, parse_yaml, Reference.parse):
        try:
            parse(data, "here")
        except ContractError as err:
            assert "\n" not in str(err)


@pytest.mark.parametrize("number", ["0x1" + "F" * 6000, "1:" * 9000 + "1", "9" * 5000, '!!int "' + "7" * 5000 + '"'])
def test_numbers_too_long_for_python_to_write_are_refused(number: str) -> None:
    with pytest.raises(ContractError, match="expected numbers of at most 100 digits, found one of"):
        parse_yaml(f"version: {number}\n".encode(), "here")
    assert parse_yaml(f"version: '{'9' * 5000}'\n".encode(), "here") == {"version": "9" * 5000}


@settings(max_examples=500)
@given(st.text() | st.text(alphabet="s3:/.b\n\0-ü").map("s3://b".__add__), st.text(alphabet="a./"))
def test_any_uri_is_understood_or_refused(uri: str, below: str) -> None:
    try:
        bucket, key = split(storage.join(uri, below)) if storage.is_s3(uri) else ("", "")
    except StorageError as err:
        assert "\n" not in str(err)
        return
    assert "/" not in bucket
    assert ".." not in key.split("/")


def test_a_value_that_would_fill_memory_as_text_is_described_briefly() -> None:
    bomb: object = "x"
    for _ in range(40):
        bomb = [bomb] * 9
    with pytest.raises(ValidationError) as caught:
        Blob.model_validate({"path": bomb, "size_bytes": 1, "sha256": "0" * 64})
    assert len(describe(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [1]\nb: *a\n", "expected no anchors and aliases, found one in line 1, column 4"),
        ("a: {k: v}\nb:\n  <<: {x: 1}\n", "expected no merge keys, found one in line 3, column 3"),
        ("[default]\naws_access_key_id = AKIAFAKE\n", "expected YAML, found something else in line 2, column 1"),
        ("a: !!bool x\n", "expected YAML, found a value that cannot be read"),
        ('a: !!int ""\n', "expected YAML, found a value that cannot be read"),
        ("a: !!timestamp x\n", "expected YAML, found a value that cannot be read"),
        ("- 1\n" * 30_000, "expected at most 20000 values, found more"),
        ("#" * (1 << 20) + "\n", "expected at most 1 MiB of YAML"),
    ],
)
def test_yaml_is_plain_values_and_its_text_is_not_repeated(text: str, said: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_yaml(text.encode(), "here")
    assert said in str(caught.value)
    assert "AKIA" not in str(caught.value)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_yaml_of_any_kind_gives_values_or_one_line(data: bytes) -> None:
    try:
        parse_yaml(data, "here")
    except ContractError as err:
        assert str(err).isprintable()


@given(st.text(), st.text(), st.text())
def test_an_error_is_one_printable_line(where: str, problem: str, hint: str) -> None:
    assert str(ContractError(where, problem, hint)).isprintable()
