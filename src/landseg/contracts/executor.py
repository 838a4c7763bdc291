"""The executor protocol of Kubeflow Pipelines, implemented without kfp.

A KFP container component receives its inputs and the places for its outputs as one JSON argument, `{{$}}`. It writes
each output artifact to the path it is given and describes all of them in the JSON at `outputs.outputFile`. Outside KFP
the same outputs go to a plain folder, so a stage is written once. Standard library only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landseg.contracts.errors import ConfigError

MAX_EXECUTOR_INPUT_BYTES = 16 << 20


@dataclass
class Outputs:
    """Where a stage's output artifacts and parameters go.

    Args:
        directory: the folder for artifacts outside KFP (`<directory>/<name>`); ignored where `artifacts` names a path.
        artifacts: output artifacts by name, as the executor input describes them.
        parameter_files: output parameters' files by name.
        output_file: the executor output to write, or None outside KFP.
    """

    directory: Path | None = None
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    parameter_files: dict[str, Path] = field(default_factory=dict)
    output_file: Path | None = None
    _metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    _parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def folders(self) -> set[Path]:
        """Every local folder that something will be written to."""
        files = [*map(artifact_path, self.artifacts.values()), *self.parameter_files.values()]
        files += [] if self.output_file is None else [self.output_file]
        return {file.parent for file in files} | ({self.directory} if self.directory and not self.artifacts else set())

    def write(self, name: str, content: str | bytes, suffix: str = "") -> Path | None:
        """Write an artifact's file and create its folders.

        Args:
            name: the artifact's name in the component.
            content: the file's content.
            suffix: file name ending used outside KFP, e.g. ".html".

        Returns:
            The path, or None if this artifact was not asked for.

        Raises:
            ConfigError: it cannot be written: the disk is full, mostly.
        """
        if name in self.artifacts:
            path = artifact_path(self.artifacts[name])
        elif self.directory is not None and not self.artifacts:
            path = self.directory / f"{name}{suffix}"
        else:
            return None
        _write(path, content.encode() if isinstance(content, str) else content)
        return path

    def clear(self, names: Iterable[str]) -> None:
        """Remove files of an earlier result from the folder; KFP's paths are new for each attempt."""
        if self.directory is not None and not self.artifacts:
            for name in names:
                (self.directory / name).unlink(missing_ok=True)

    def metadata(self, name: str, values: dict[str, Any]) -> None:
        """Add metadata to an artifact (metrics, confusion matrix, facts for the UI)."""
        self._metadata.setdefault(name, {}).update(values)

    def parameter(self, name: str, value: str | int | float | bool | list[str] | list[dict[str, str]]) -> None:
        """Set an output parameter."""
        self._parameters[name] = value

    def close(self) -> None:
        """Write the executor output; without it `kfp.local` sees no artifact and the backend no metadata."""
        for name, path in self.parameter_files.items():
            if name in self._parameters:
                value = self._parameters[name]
                _write(path, (value if isinstance(value, str) else json.dumps(value)).encode())
        if self.output_file is None:
            return
        artifacts: dict[str, Any] = {}
        for name, artifact in self.artifacts.items():
            path = artifact_path(artifact)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()  # a missing artifact file is a cache miss in kfp.local
            merged = {**artifact.get("metadata", {}), **self._metadata.get(name, {})}
            known: dict[str, Any] = {key: artifact[key] for key in ("name", "type", "uri") if key in artifact}
            artifacts[name] = {"artifacts": [{**known, "metadata": sanitise(merged)}]}
        document: dict[str, Any] = {"artifacts": artifacts, "parameterValues": sanitise(self._parameters)}
        _write(self.output_file, json.dumps({key: value for key, value in document.items() if value}).encode())


@dataclass
class ExecutorInput:
    """The parsed `{{$}}`: the outputs to write and the input artifacts by name (several for a list input)."""

    outputs: Outputs
    inputs: dict[str, list[dict[str, Any]]]

    @classmethod
    def parse(cls, text: str) -> ExecutorInput:
        """Parse the JSON that KFP passes.

        Raises:
            ConfigError: it is not the JSON of an executor input.
        """
        if len(text) > MAX_EXECUTOR_INPUT_BYTES:
            raise ConfigError(
                "--executor-input",
                f"expected at most {MAX_EXECUTOR_INPUT_BYTES} characters, found {len(text)}",
            )
        try:
            document = json.loads(text)
            outputs = _mapping(document.get("outputs"))
            return cls(
                outputs=Outputs(
                    artifacts={
                        name: _artifacts(value)[0] for name, value in _mapping(outputs.get("artifacts")).items()
                    },
                    parameter_files={
                        name: Path(value["outputFile"]) for name, value in _mapping(outputs.get("parameters")).items()
                    },
                    output_file=Path(outputs["outputFile"]) if outputs.get("outputFile") else None,
                ),
                inputs={
                    name: _artifacts(value)
                    for name, value in _mapping(_mapping(document.get("inputs")).get("artifacts")).items()
                },
            )
        except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError) as err:
            raise ConfigError(
                "--executor-input",
                f"expected the executor input of a KFP component, found something else: {err!r}",
                "pass '{{$}}' in the component and omit the flag elsewhere",
            ) from err


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as err:
        raise ConfigError(path, f"cannot be written: {(err.strerror or str(err)).lower()}") from err


def _mapping(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return value


def _artifacts(value: Any) -> list[dict[str, Any]]:
    artifacts = [_mapping(item) for item in value["artifacts"]]
    for artifact in artifacts:
        if not all(isinstance(artifact.get(key, ""), str) for key in ("name", "uri", "customPath")):
            raise TypeError("an artifact's name, uri and customPath are strings")
        if any(".." in str(artifact.get(key, "")).split("/") for key in ("uri", "customPath")):
            raise TypeError("an artifact's path does not climb")
        if not isinstance(artifact.get("metadata", {}), dict):
            raise TypeError("an artifact's metadata is an object")
    return artifacts


def artifact_path(artifact: dict[str, Any]) -> Path:
    """The local file of an artifact: the launcher mounts `s3://x` and its like under `/s3/x`."""
    if custom := artifact.get("customPath"):
        return Path(custom)
    uri = str(artifact.get("uri", ""))
    for scheme, mount in (
        ("gs://", "/gcs/"),
        ("minio://", "/minio/"),
        ("s3://", "/s3/"),
        ("oci://", "/oci/"),
    ):
        if uri.startswith(scheme):
            return Path(mount + uri.removeprefix(scheme))
    return Path(os.fspath(uri))


def sanitise(value: Any) -> Any:
    """Remove what the backend's protobuf refuses: null, NaN and infinities; keys become strings.

    Raises:
        TypeError: a value that JSON cannot express; numpy scalars are converted to Python's.
    """
    if isinstance(value, dict):
        return {_text(str(key)): sanitise(item) for key, item in value.items() if not _inexpressible(item)}
    if isinstance(value, list | tuple):
        return [sanitise(item) for item in value if not _inexpressible(item)]
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, str | bool | int | float):
        raise TypeError(f"KFP metadata holds text, numbers, true and false, lists and objects, not {value!r}")
    return _text(value) if isinstance(value, str) else value


def _inexpressible(value: Any) -> bool:
    value = value.item() if hasattr(value, "item") else value
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _text(value: str) -> str:
    """Valid UTF-8: a file name may hold other bytes, which protobuf refuses."""
    return value.encode(errors="replace").decode()
