"""A stage at work: its inputs, its folder in object storage, its outputs."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from landseg import __version__, storage
from landseg.cli.scratch import remove_abandoned, scratch_folder
from landseg.contracts.documents import Document, digest
from landseg.contracts.errors import ConfigError, ContractError, DamagedObjectError, ObjectNotFoundError, masked
from landseg.contracts.executor import ExecutorInput, Outputs, artifact_path
from landseg.contracts.names import check_run_id
from landseg.contracts.references import ARGUMENTS, Arguments, Reference
from landseg.stages.shared.code import code_digest
from landseg.stages.shared.options import check_writable, storage_root

D = TypeVar("D", bound=Document)

IDENTITY = "identity.json"
"""In a stage's folder, written before the work begins: what decides the result, checksums of inputs included."""

OUTPUT_FILES = {
    "stage-data": ("dataset.json", "report.html", "checks.json"),
    "train": ("model.json", "metrics.json", "report.html"),
    "export-probs": ("probs.json",),
    "average-probs": ("labels.json", "metrics.json", "confusion_matrix.json", "report.html", "summary.json"),
}
"""What each stage leaves in `--output-dir`. Removed when it begins: else one that ends without a result, because shares
are missing or the data is refused, would leave an earlier result to be taken for its own."""

_log = logging.getLogger(__name__)


@dataclass
class StageContext:
    """A stage at work.

    Attributes:
        stage: the verb, e.g. `train`.
        storage_uri: root in object storage.
        run_id: the run's name; empty for stages whose results are shared by runs.
        outputs: where reports, metrics and references go.
        inputs: input artifacts by name, if KFP passed them.
        scratch: a local folder that is removed when the stage ends.
        started: `time.monotonic()` when it began.
    """

    stage: str
    storage_uri: str
    run_id: str
    outputs: Outputs
    inputs: dict[str, list[dict[str, Any]]]
    scratch: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.started

    def folder(self, name: str, identity: dict[str, Any], stage: str = "") -> str:
        """The stage's folder: `<root>/runs/<run>/<stage>[/<name>]/<identity>`.

        Args:
            name: the model's name, checked before; or "".
            identity: everything that decides the result besides the code: parameters and the digests of inputs. A rerun
                with the same identity finds what was written before; one with another gets a folder of its own.
            stage: whose folder, if it is not this stage's own.
        """
        stage = stage or self.stage
        identity = {"landseg": __version__, "code": code_digest(stage), "stage": stage, **identity}
        key = digest(identity)[:12]
        parts = [part for part in (stage, name, key) if part]
        folder = storage.join(self.storage_uri, "runs", self.run_id, *parts)
        _log.debug("works in %s", folder)
        if storage.stat(storage.join(folder, IDENTITY)) is None:
            text = json.dumps(masked(identity), indent=1, ensure_ascii=False)
            storage.put_bytes(storage.join(folder, IDENTITY), f"{text}\n".encode())
        return folder

    def reference(self, name: str, given: str | None) -> str:
        """The manifest to read: what the flag `--<name>` gives, else KFP's input artifact of that name.

        A pipeline passes the artifact of the step before; a step that runs on its own is given a URI. KFP passes an
        empty string for a flag that is not given.
        """
        return given or self.references(name, [])[0]

    def references(self, name: str, given: Sequence[str]) -> list[str]:
        """The manifests to read: what the flag gives, separated by commas, else KFP's input artifacts.

        A path or URI that exists as it stands is taken whole, commas included.

        The artifacts are called `<name>`, or `<name>_1`, `<name>_2` and so on; each may be what several workers of one
        or of several models wrote.
        """
        found = [item for value in given for item in _items(value)]
        if not found:
            wired = sorted(key for key in self.inputs if re.fullmatch(rf"{name}(_\d+)?", key))
            found = [reference for key in wired if self.inputs[key] for reference in _references(self.inputs[key])]
        if not found:
            raise ConfigError(f"--{name}", "expected a manifest's URI or path, or a reference file; found nothing")
        _log.debug("reads %s: %s", name, ", ".join(found))
        return found

    def publish(self, name: str, loaded: storage.Loaded[Any], facts: dict[str, str | int | float | bool]) -> None:
        """Write the reference to a manifest as an output artifact, with facts to read in the UI."""
        reference = Reference(uri=loaded.uri, sha256=loaded.sha256, manifest_kind=loaded.document.kind, facts=facts)
        self.outputs.write(name, reference.to_bytes(), ".json")
        self.outputs.metadata(name, {"uri": loaded.uri, "sha256": loaded.sha256, **facts})


def _items(value: str) -> list[str]:
    if "," in value and ",s3://" not in value and _exists(value):  # with ",s3://" it is a list, and no key either
        return [value]
    return [item for item in value.split(",") if item]


def _exists(value: str) -> bool:
    if storage.is_s3(value):
        return storage.stat(value) is not None
    try:
        return Path(value).exists()
    except OSError:  # longer than any path: a list
        return False


def record_arguments(folder: str, values: dict[str, Any]) -> None:
    """Write `arguments.json` to a stage's folder before the work begins, so that a killed stage can be run again too.

    Args:
        folder: URI of the stage's folder.
        values: flags by name; None for those that were not given.
    """
    uri = storage.join(folder, ARGUMENTS)
    if storage.stat(uri) is None:
        given = {name: masked(value) for name, value in sorted(values.items()) if value is not None}
        storage.write_document(uri, Arguments(values=given))


def _references(artifacts: list[dict[str, Any]]) -> list[str]:
    """The reference to each result among what the workers of a stage wrote: the last of a result's workers wrote it.

    Raises:
        ContractError: no worker of a result found all of its work done.
    """
    paths = [artifact_path(artifact) for artifact in artifacts]
    if len(paths) == 1:
        return [str(paths[0])]
    by_result: dict[str, list[Path]] = {}
    for artifact, path in zip(artifacts, paths, strict=True):
        by_result.setdefault(str(artifact.get("metadata", {}).get("uri", "")), []).append(path)
    found = []
    for uri, tried in by_result.items():
        written = [path for path in tried if path.is_file() and path.stat().st_size]
        if not written:
            raise ContractError(
                uri,
                f"expected the last of {len(tried)} workers to publish it, found that none did: shards are missing",
                "run the stage's workers again, on GPUs of one kind: they write what is missing",
            )
        found.append(str(written[0]))
    return found


def finished(kind: type[D], folder: str, *others: str) -> storage.Loaded[D] | None:
    """The manifest in a stage's folder, or None if the stage has not finished there, or what it wrote is incomplete.

    An object of another size than the manifest lists is damaged: it is removed, so that the stage does not take it for
    done. Damage that keeps the size is for `landseg verify` to find.

    Args:
        kind: the manifest's.
        folder: URI of the stage's folder.
        others: names of objects in the folder that the manifest does not list, and that the stage needs too.
    """
    try:
        found = storage.read_document(kind, storage.join(folder, "manifest.json"))
    except ObjectNotFoundError:
        return None
    except ContractError as err:
        raise ContractError(err.where, err.problem, err.hint or "remove it, and run the stage again") from err
    sizes = storage.sizes_below(folder)
    whole = True
    try:
        for blob in storage.listed(found.document, folder):
            if (size := sizes.get(blob.path)) != blob.size_bytes:
                whole = False
                uri = storage.join(folder, blob.path)
                expected = f"expected {blob.size_bytes} bytes"
                if size is None:
                    _log.warning("%s: %s, found no such object; it is made again", uri, expected)
                else:
                    _log.warning("%s: %s, found %d; it is removed and made again", uri, expected, size)
                    storage.delete(uri)
    except ObjectNotFoundError:  # a list of objects, reported already
        whole = False
    except DamagedObjectError as err:
        whole = False
        _log.warning("%s; it is made again", err)
    for name in others:
        if name not in sizes:
            whole = False
            _log.warning("%s: found no such object; it is made again", storage.join(folder, name))
    if not whole:
        return None
    _log.info("finished before: %s", found.uri)
    return found


@contextlib.contextmanager
def stage_scratch(given: Path | None) -> Iterator[Path]:
    """A new folder for temporary files, in `--scratch`, else `TMPDIR`, else where the system has them.

    What stages that were killed left there is removed.

    Raises:
        ConfigError: the place cannot be written.
    """
    parent = _scratch_place(given)
    for left in remove_abandoned(parent):
        _log.info("removed %s, which a stage that was killed had left", left)
    with scratch_folder(parent) as scratch:
        yield scratch


def _scratch_place(given: Path | None) -> Path:
    if given is not None:
        check_writable("--scratch", given)
        return given
    if name := os.environ.get("TMPDIR"):
        if not Path(name).is_dir():  # rather a slip than a wish
            raise ConfigError("TMPDIR", f"expected a folder, found {name}", "make it, or give --scratch")
        check_writable("TMPDIR", Path(name), "or give --scratch")
        return Path(name)
    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def stage_context(stage: str, args: argparse.Namespace) -> Iterator[StageContext]:
    """Interpret the common options; on success write the executor output."""
    run_id = getattr(args, "run_id", None)
    if run_id is not None:
        check_run_id("--run-id", run_id)
    if args.executor_input is not None:
        parsed = ExecutorInput.parse(args.executor_input)
        outputs, inputs = parsed.outputs, parsed.inputs
    else:
        outputs, inputs = Outputs(directory=getattr(args, "output_dir", None)), {}
    storage_uri = storage_root(args.storage_uri)
    for folder in outputs.folders:
        check_writable("--output-dir" if args.executor_input is None else "--executor-input", folder)
    outputs.clear(OUTPUT_FILES.get(stage, ()))
    with stage_scratch(args.scratch) as scratch:
        is_new = not storage.is_s3(storage_uri) and not Path(storage_uri).exists()
        storage.clean_abandoned_daily(storage_uri)  # left by stages that were killed a day ago or earlier
        yield StageContext(stage, storage_uri, run_id or "", outputs, inputs, scratch)
        outputs.close()
    if is_new:
        storage.clean_abandoned_daily(storage_uri)  # which notes the day: the same stage again is to write nothing
