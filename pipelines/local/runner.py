"""Runs a compiled pipeline on this machine: the same YAML that a cluster runs, through `kfp.local`.

`kfp.local` executes the DAG, passes artifacts and keeps a cache, but runs container components only in Docker, and
reports a failure with its own traceback. Four of its attributes are therefore replaced while a pipeline runs:

- `subprocess_task_handler.SubprocessTaskHandler`, which refuses container components, by one that runs their command;
- `task_executor.execute_single_task`, by one that times the task and reports progress;
- `enhanced_dag_orchestrator.ParallelExecutor`, whose threads an interrupt does not reach, by one that runs the items of
  a loop one after the other: on one machine they would only share its memory;
- `cache.LocalCache`, by one that also asks object storage whether a result is still there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.exceptions
import yaml
from google.protobuf import json_format
from kfp import dsl, local
from kfp.local import cache, pipeline_orchestrator, subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor
from kfp.local.status import Status
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.dags.step_limits import LIMITS
from pipelines.local.processes import Launcher, host_command, run_process
from pipelines.object_storage import s3_client


class StageFailedError(Exception):
    """A step of the pipeline ended with a status other than 0; the reason is on stderr.

    Attributes:
        task: the step's display name.
        status: its exit status: 2 for what the user can fix.
    """

    def __init__(self, task: str, status: int) -> None:
        self.task, self.status = task, status
        super().__init__(f"{task} failed with exit status {status}")


@dataclass
class TaskRun:
    """The outcome of one step.

    Attributes:
        name: the step's display name.
        seconds: how long it took.
        cached: whether an earlier run's outputs were taken.
        outputs: output artifacts (kfp.dsl.Artifact) and parameters by name.
    """

    name: str
    seconds: float
    cached: bool
    outputs: dict[str, Any] = field(default_factory=dict)


def run(
    package: Path,
    arguments: dict[str, Any],
    root: Path,
    *,
    launcher: Launcher = host_command,
    code: str = "",
    use_cache: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[TaskRun]:
    """Run a compiled pipeline.

    Args:
        package: the compiled YAML.
        arguments: the pipeline's parameters, as `arguments.parse_parameters` returns them.
        root: folder for KFP's artifacts and cache.
        launcher: runs a step's command: `host_command`, or one made by `containers.container_command`.
        code: digest of the code that steps run; that of this environment's landseg by default.
        use_cache: reuse the outputs of an identical earlier step where they still exist.
        say: receives one line at the start and at the end of each step; stderr by default.

    Returns:
        The steps in the order they ran.

    Raises:
        StageFailedError: a step failed.
    """
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    # Loaded through kfp.components, a pipeline of one step would run as a component and bypass the cache.
    spec = json_format.ParseDict(next(yaml.safe_load_all(package.read_text())), pipeline_spec_pb2.PipelineSpec())
    session = _Session(launcher, code or _source_digest(), say or _to_stderr)
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root),
        raise_on_error=True,
        enable_caching=use_cache,
    )
    with session.installed(), _quiet():
        pipeline_orchestrator.run_local_pipeline(spec, arguments)
    return session.runs


class _Session:
    """One run of a pipeline: what replaces the four attributes of `kfp.local`, and the steps so far."""

    def __init__(self, launcher: Launcher, code: str, say: Callable[[str], None]) -> None:
        self.launcher, self.code, self.say = launcher, code, say
        self.runs: list[TaskRun] = []
        self.executing = ""
        self.executed = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        session = self

        class Handler(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
            """Runs a container component's command itself, where the stock one refuses it."""

            def __init__(self, image: str, full_command: list[str], **kwargs: Any) -> None:
                self.image, self.full_command = image, full_command
                self.env_vars = _without_limits(kwargs.get("env_vars"))

            def run(self) -> Status:
                session.execute(self.image, self.full_command, self.env_vars)
                return Status.SUCCESS

        class Cache(_Cache):
            """Steps run this code whatever the image's tag is, so the code is part of the key."""

            def compute_key(self, *args: Any, **kwargs: Any) -> str:
                kwargs["env_vars"] = _without_limits(kwargs.get("env_vars"))
                key = super().compute_key(*args, **kwargs)
                return hashlib.sha256(f"{key} {session.code}".encode()).hexdigest()

        stock_execute = task_executor.execute_single_task

        def execute_single_task(task_name: str, task_spec: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
            session.executing = task_spec.task_info.name or task_name
            session.executed = False
            start = time.monotonic()
            outputs, status = stock_execute(task_name=task_name, task_spec=task_spec, **kwargs)
            seconds = time.monotonic() - start
            for key, value in outputs.items():  # the only place where kfp.local looks for the items of a loop
                kwargs["io_store"].put_parent_input(f"pipelinechannel--{task_name}-{key}", value)
                if isinstance(value, dsl.HTML):
                    _name_as_html(value)
            session.runs.append(TaskRun(session.executing, seconds, not session.executed, outputs))
            session.say(f"{session.executing}: " + (f"done in {seconds:.1f} s" if session.executed else "reused"))
            return outputs, status

        with (
            _replaced(subprocess_task_handler, "SubprocessTaskHandler", Handler),
            _replaced(task_executor, "execute_single_task", execute_single_task),
            _replaced(enhanced_dag_orchestrator, "ParallelExecutor", _SerialExecutor),
            _replaced(cache, "LocalCache", Cache),
        ):
            yield

    def execute(self, image: str, command: list[str], env: dict[str, str]) -> None:
        """Run one step's command; its lines go to this process's stderr as they come."""
        self.executed = True
        self.say(f"{self.executing}: {' '.join(command[:2])}")
        status = run_process(self.launcher(image, command), env)
        if status != 0:
            raise StageFailedError(self.executing, status)


def _without_limits(env: dict[str, str] | None) -> dict[str, str]:
    """A step's environment without what its pod and those of other steps may use: this machine is none of them."""
    return {name: value for name, value in (env or {}).items() if name not in LIMITS}


class _SerialExecutor(enhanced_dag_orchestrator.ParallelExecutor):  # type: ignore[misc]
    """Runs the items of a loop in order, in this thread."""

    def execute_parallel_tasks(
        self, tasks: list[tuple[str, Any]], parallelism_limit: int = 0, **context: Any
    ) -> tuple[dict[str, dict[str, Any]], Status]:
        """Run them; a failing one raises."""
        outputs = {}
        for name, task_spec in tasks:
            outputs[name], _ = enhanced_dag_orchestrator.execute_task(task_name=name, task_spec=task_spec, **context)
        return outputs, Status.SUCCESS


class _Cache(cache.LocalCache):  # type: ignore[misc]
    """The cache of `kfp.local`, which does not know object storage."""

    def get(self, key: str) -> dict[str, Any] | None:
        """A hit counts only where every manifest that the outputs refer to is still in storage."""
        outputs: dict[str, Any] | None = super().get(key)
        artifacts = [] if outputs is None else [value for value in outputs.values() if hasattr(value, "metadata")]
        return outputs if all(_exists(artifact.metadata.get("uri", "")) for artifact in artifacts) else None


def html_file(artifact: Any) -> Path:
    """The file of an HTML artifact under a name that a browser opens."""
    return Path(f"{artifact.path}.html")


def _name_as_html(artifact: Any) -> None:
    """Give an HTML artifact a second name: KFP names files after artifacts, without a suffix."""
    path, named = Path(artifact.path), html_file(artifact)
    if path.is_file():
        named.unlink(missing_ok=True)
        try:
            named.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, named)


def _source_digest(folder: Path | None = None) -> str:
    """SHA-256 of a package's files, landseg's by default; "" where it is not installed."""
    if folder is None:
        spec = importlib.util.find_spec("landseg")
        if spec is None or spec.origin is None:
            return ""
        folder = Path(spec.origin).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        # Another process may be writing and renaming bytecode.
        if path.parent.name != "__pycache__" and path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _exists(uri: str) -> bool:
    if not uri.startswith("s3://"):
        return not uri or Path(uri).exists()
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        s3_client().head_object(Bucket=bucket, Key=key)
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
        return False  # the step then runs and reports what is wrong with object storage
    return True


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    stock = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, stock)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence kfp's own log lines, rules and warnings about settings that matter only on a cluster."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _to_stderr(line: str) -> None:
    print(line, file=sys.__stderr__, flush=True)
