"""Checkpoints in object storage: published, found again, verified and pruned.

A checkpoint is an ordinary mmseg checkpoint (`meta`, `state_dict`, `optimizer`) with one more entry, `resume`: all that
training needs to continue as if it had never stopped. It holds tensors and plain values only. A small document with its
checksum is written last: a checkpoint without one is not complete.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from landseg import storage
from landseg.contracts.documents import Blob
from landseg.contracts.errors import ContractError, DamagedObjectError, LandsegError, ObjectNotFoundError, StorageError
from landseg.contracts.model import CheckpointInfo
from landseg.models.weights.torch_file import TorchFile


def write_local(content: dict[str, Any], path: Path) -> None:
    """Serialise to a local file.

    Raises:
        LandsegError: the disk is full.
    """
    try:
        torch.save(content, path)
    except (OSError, RuntimeError) as err:
        free = shutil.disk_usage(path.parent).free
        path.unlink(missing_ok=True)
        raise LandsegError(
            path.parent,
            f"expected room for a checkpoint, found {free >> 20} MiB free: {str(err).splitlines()[0]}",
            "give the stage a larger --scratch",
        ) from err


@dataclass
class CheckpointStore:
    """The checkpoints of one training run, in `folder`.

    Publishing runs in a thread of its own while training continues; a failure there is raised by the next call. Where
    storage fails, a warning is given and the next checkpoint tries again: only the last one has to arrive.

    Args:
        folder: URI.
        scratch: local folder.
        keep: number of complete checkpoints to keep.
        warn: called with a message for each checkpoint that is skipped.
    """

    folder: str
    scratch: Path
    keep: int
    warn: Callable[[str], None]
    _jobs: queue.Queue[Callable[[], None] | None] = field(default_factory=lambda: queue.Queue(2))
    _failure: list[BaseException] = field(default_factory=list)
    _thread: threading.Thread | None = None
    _late: StorageError | None = None
    """Why the newest checkpoint could not be published; None where it was."""

    def publish(self, content: dict[str, Any], iteration: int, epoch: int) -> None:
        """Publish a checkpoint in the background; waits while two earlier ones are still being written.

        Args:
            content: the checkpoint; its tensors must not change afterwards.
            iteration: number of finished iterations.
            epoch: number of finished epochs.
        """

        def publish() -> None:
            try:
                self._publish(content, iteration, epoch)
                self._late = None
            except StorageError as err:
                self._late = err
                raise

        self.submit(publish)

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job in the background, after everything submitted before it.

        Raises:
            LandsegError: an earlier job failed.
        """
        self._check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    @property
    def busy(self) -> bool:
        """Whether something submitted is still to be done."""
        return self._jobs.unfinished_tasks > 0

    def flush(self) -> None:
        """Wait until everything is done.

        Raises:
            LandsegError: a job failed, or the last checkpoint could not be published.
        """
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        self._check()
        if self._late is not None:
            raise self._late

    def newest(self) -> dict[str, Any] | None:
        """The newest complete checkpoint, read and verified; a damaged one is reported and skipped."""
        for uri in reversed(self._complete()):
            try:
                return self._read(uri)
            except (ContractError, DamagedObjectError, ObjectNotFoundError) as err:
                self.warn(f"checkpoint skipped: {err}")
        return None

    def iterations(self) -> set[int]:
        """Those of the complete checkpoints."""
        return {int(uri.rpartition("_")[2].removesuffix(".json")) for uri in self._complete()}

    def read(self, iteration: int) -> dict[str, Any] | None:
        """The checkpoint of an iteration, read and verified; None where it is not there or damaged."""
        for uri in self._complete():
            if uri.endswith(f"/iter_{iteration:08d}.json"):
                try:
                    return self._read(uri)
                except (ContractError, DamagedObjectError, ObjectNotFoundError) as err:
                    self.warn(f"checkpoint skipped: {err}")
        return None

    def _read(self, uri: str) -> dict[str, Any]:
        file = storage.read_document(CheckpointInfo, uri).document.file
        source, local = storage.join(self.folder, file.path), self.scratch / "resume.pth"
        try:
            storage.get_file(source, local, sha256=file.sha256)
            with TorchFile(local, source) as opened:
                content: dict[str, Any] = opened.tensors(opened.content)
            return content
        finally:
            local.unlink(missing_ok=True)

    def _complete(self) -> list[str]:
        """URIs of the documents of complete checkpoints, oldest first."""
        return [item.uri for item in storage.list_objects(self.folder) if item.uri.endswith(".json")]

    def _work(self) -> None:
        ended = False
        while not ended:
            job = self._jobs.get()
            try:
                ended = job is None
                if job is not None and not self._failure:
                    job()
            except StorageError as err:
                self.warn(f"not published, the next checkpoint tries again: {err}")
            except BaseException as err:  # handed to the training thread
                self._failure.append(err)
            finally:
                self._jobs.task_done()

    def _publish(self, content: dict[str, Any], iteration: int, epoch: int) -> None:
        name = f"iter_{iteration:08d}"
        local = self.scratch / f"{name}.pth"
        try:
            write_local(content, local)
            file = Blob(path=f"{name}.pth", size_bytes=local.stat().st_size, sha256=storage.file_sha256(local))
            storage.put_file(storage.join(self.folder, file.path), local)
        finally:
            local.unlink(missing_ok=True)
        info = CheckpointInfo(iteration=iteration, epoch=epoch, file=file)
        storage.write_document(storage.join(self.folder, f"{name}.json"), info)
        self._prune()

    def _prune(self) -> None:
        """Delete all but the newest `keep`, documents first, so that nothing incomplete ever looks complete."""
        complete = self._complete()
        kept = {uri.removesuffix(".json") for uri in complete[-self.keep :]}
        for uri in complete[: -self.keep]:
            storage.delete(uri)
        for item in storage.list_objects(self.folder):
            if item.uri.endswith(".pth") and item.uri.removesuffix(".pth") not in kept:
                storage.delete(item.uri)

    def _check(self) -> None:
        if self._failure:
            raise self._failure[0]
