"""The local runner: what it replaces in kfp.local, what a failing step looks like, what the cache knows."""

import argparse
import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import kfp
import pytest
from kfp import compiler, dsl
from kfp.local import cache, subprocess_task_handler
from kfp.local.orchestrator import dag_orchestrator, enhanced_dag_orchestrator, task_executor

from benchmarks.processes import descendants
from components.images import ROOT
from pipelines import __main__ as command_line
from pipelines.dags.packages import names
from pipelines.dags.step_limits import LIMITS
from pipelines.local import containers
from pipelines.local import runner as local

STAND_IN = """
import json, pathlib, sys
from landseg.contracts.executor import ExecutorInput
log, text, executor_input = sys.argv[1], *sys.argv[-2:]
with open(log, "a") as file:
    file.write(text + "\\n")
if text.startswith("fail"):
    sys.exit(int(text.removeprefix("fail")))
outputs = ExecutorInput.parse(executor_input).outputs
for name in outputs.artifacts:
    outputs.write(name, text)
    outputs.metadata(name, {"uri": text} if "/" in text else {})
outputs.close()
"""


@dsl.container_component
def produce(data: dsl.Output[dsl.Dataset], text: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="none:1", command=["produce"], args=[text, "{{$}}"])


@dsl.container_component
def consume(data: dsl.Input[dsl.Dataset], result: dsl.Output[dsl.Artifact], text: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="none:1", command=["consume"], args=[text, "{{$}}"])


@dsl.pipeline(name="inner")
def inner(data: dsl.Input[dsl.Dataset], text: str) -> dsl.Artifact:
    return consume(data=data, text=text).set_display_name("consume inside").outputs["result"]


@dsl.pipeline(name="outer")
def outer(text: str):
    data = produce(text=text).set_display_name("make it").set_retry(3, backoff_duration="60s")
    inner(data=data.outputs["data"], text="python3")


@dsl.pipeline(name="single")
def single(text: str):
    produce(text=text).set_display_name("alone")


class Bench:
    """A compiled pipeline of two steps whose commands are stand-ins that log what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package, self.script, self.log = folder / "outer.yaml", folder / "stand_in.py", folder / "log"
        compiler.Compiler().compile(outer, str(self.package))
        self.script.write_text(STAND_IN)
        self.said: list[str] = []

    def launcher(self, image: str, command: list[str]) -> list[str]:
        assert image == "none:1"
        return [sys.executable, str(self.script), str(self.log), *command]

    def run(self, text: str, **options: Any) -> list[local.TaskRun]:
        self.said.clear()
        self.log.unlink(missing_ok=True)
        return local.run(
            self.package, {"text": text}, self.folder / "kfp", launcher=self.launcher, say=self.said.append, **options
        )

    def executed(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_replaced_in_kfp_is_still_there() -> None:
    """Fails when kfp moves what the runner replaces: then pipelines/local/runner.py must follow."""
    assert kfp.__version__.startswith("2.17.")
    assert inspect.isclass(subprocess_task_handler.SubprocessTaskHandler)
    assert inspect.isclass(cache.LocalCache)
    for orchestrator in (dag_orchestrator, enhanced_dag_orchestrator):
        assert "task_executor.execute_single_task(" in inspect.getsource(orchestrator)
    assert "LocalCache(" in inspect.getsource(cache.get_local_cache)


def test_container_components_run_as_processes_and_hand_over_artifacts(bench: Bench) -> None:
    stock = (subprocess_task_handler.SubprocessTaskHandler, task_executor.execute_single_task, cache.LocalCache)
    runs = bench.run(str(bench.folder))
    assert [(run.name, run.cached) for run in runs] == [("make it", False), ("consume inside", False)]
    assert bench.executed() == [str(bench.folder), "python3"]
    assert Path(runs[1].outputs["result"].path).read_text() == "python3"
    assert bench.said[0] == "make it: produce " + str(bench.folder)
    assert bench.said[-1].startswith("consume inside: done in ")
    now = (subprocess_task_handler.SubprocessTaskHandler, task_executor.execute_single_task, cache.LocalCache)
    assert now == stock


def test_a_pipeline_of_one_step_runs_like_any_other(bench: Bench) -> None:
    compiler.Compiler().compile(single, str(bench.package))
    assert [(run.name, run.cached) for run in bench.run("x")] == [("alone", False)]
    assert [(run.name, run.cached) for run in bench.run("x")] == [("alone", True)]


PRINT_LIMITS = """
import os, sys
with open(sys.argv[1], "a") as file:
    for name in ("LANDSEG_SCRATCH_BYTES", "LANDSEG_STEP_LIMITS", "OTHER"):
        file.write(f"{os.environ.get(name)} ")
"""


def test_what_pods_may_use_holds_for_no_step_here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    @dsl.pipeline(name="single")
    def limited(text: str):
        task = produce(text=text)
        for name in LIMITS:
            task.set_env_variable(name, "5")
        task.set_env_variable("OTHER", "kept")

    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", "7")  # the user's own
    bench.script.write_text(PRINT_LIMITS + STAND_IN)
    compiler.Compiler().compile(limited, str(bench.package))
    assert [run.cached for run in bench.run("x")] == [False]
    assert bench.executed() == ["7 None kept x"]
    text = bench.package.read_text()
    bench.package.write_text(text.replace("value: '5'", "value: '6'"))
    assert bench.package.read_text() != text
    assert [run.cached for run in bench.run("x")] == [True]


@pytest.mark.parametrize("status", [1, 2])
def test_a_failing_step_ends_the_run_at_once(bench: Bench, status: int) -> None:
    with pytest.raises(local.StageFailedError, match="make it failed with exit status") as failed:
        bench.run(f"fail{status}")
    assert failed.value.status == status
    assert bench.executed() == [f"fail{status}"]  # not retried: whoever runs it is looking


def test_kfp_says_nothing_itself(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.run("")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_equal_steps_are_reused_and_changed_ones_run(bench: Bench) -> None:
    bench.run("")
    assert [run.cached for run in bench.run("")] == [True, True]
    assert bench.executed() == []
    assert [run.cached for run in bench.run("other", use_cache=False)] == [False, False]
    assert [run.cached for run in bench.run("")] == [True, True]


def test_a_result_that_is_gone_from_a_folder_is_made_again(bench: Bench) -> None:
    manifest = bench.folder / "manifest.json"
    manifest.write_text("{}")
    bench.run(str(manifest))
    assert bench.run(str(manifest))[0].cached
    manifest.unlink()
    assert not bench.run(str(manifest))[0].cached


def test_a_result_that_is_gone_from_object_storage_is_made_again(bench: Bench, s3: Any) -> None:
    bucket, _, prefix = s3.uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key=f"{prefix}/manifest.json", Body=b"{}")
    uri = f"{s3.uri}/manifest.json"
    bench.run(uri)
    assert bench.run(uri)[0].cached
    client.delete_object(Bucket=bucket, Key=f"{prefix}/manifest.json")
    assert not bench.run(uri)[0].cached


def test_changed_source_is_not_taken_from_the_cache(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run("")
    assert [run.cached for run in bench.run("", code="images")] == [False, False]
    assert [run.cached for run in bench.run("")] == [True, True]
    monkeypatch.setattr(local, "_source_digest", lambda: "another")
    assert [run.cached for run in bench.run("")] == [False, False]


def test_bytecode_that_another_process_is_writing_is_no_changed_source(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("x = 1\n")
    before = local._source_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.cpython-311.pyc.140213").write_bytes(b"renamed in a moment")
    assert local._source_digest(tmp_path) == before
    (tmp_path / "module.py").write_text("x = 2\n")
    assert local._source_digest(tmp_path) != before


def test_the_docker_command_sets_what_a_cluster_sets_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    command = containers.container_command([Path("/data")])("image:1", ["landseg", "train"])
    assert command[:3] == ["docker", "run", "--rm"]
    assert command[-4:] == ["--entrypoint=", "image:1", "landseg", "train"]
    assert {"--volume=/data:/data", "--env=AWS_ENDPOINT_URL", "--network=host"} <= set(command)
    assert not any("http://" in part for part in command)  # values stay out of the process list


def test_what_docker_lacks_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'Error: No such image: '$4 >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = pipelines_command("demo", "--docker", f"--root={tmp_path / 'demo'}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "make build-images" in done.stderr
    client.unlink()
    done = pipelines_command("demo", "--docker", f"--root={tmp_path / 'demo'}")
    assert done.returncode == 2
    assert "expected the docker client on PATH" in done.stderr
    assert not (tmp_path / "demo" / "data").exists()


INTERRUPTED = """
import signal, subprocess, sys
from pathlib import Path
from pipelines.local import runner as local

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
stock = subprocess.Popen.wait

def wait(process, timeout=None):
    print("the runner waits", file=sys.stderr, flush=True)
    return stock(process, timeout)

subprocess.Popen.wait = wait
package, root, script = sys.argv[1:]
local.run(Path(package), {"text": "x"}, Path(root), launcher=lambda image, command: [sys.executable, script])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_stops_its_step(number: signal.Signals, bench: Bench) -> None:
    bench.script.write_text("import time\nprint('the step has started', flush=True)\ntime.sleep(600)\n")
    arguments = [str(bench.package), str(bench.folder / "kfp"), str(bench.script)]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    expected = {"the step has started\n", "the runner waits\n"}
    while expected:
        line = process.stderr.readline()
        assert line, "the runner ended before the step was started and waited for"
        expected.discard(line)
    children = descendants(process.pid)
    os.kill(process.pid, number)  # to the runner alone, as `kill` does
    process.wait(timeout=120)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pipelines_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_wrong_parameters_are_one_line_and_status_2() -> None:
    done = pipelines_command("run", "train-and-ensemble", "--param=sorce=x")
    assert done.returncode == 2
    assert done.stderr.endswith("train-and-ensemble has no such parameter, did you mean source?\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["run", "train-and-ensemble"], ["demo"]])
def test_a_root_that_is_no_folder_is_one_line_and_status_2(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = [f"--param=source={tmp_path}", f"--param=storage_uri={tmp_path}", "--param=run_id=r"]
    done = pipelines_command(*command, f"--root={tmp_path / 'file'}", *(given if command[0] == "run" else []))
    assert done.returncode == 2
    assert done.stderr == f"python -m pipelines {command[0]}: error: {tmp_path / 'file'}: file exists\n"


@pytest.mark.parametrize("buffering", ["-u", "-B"])
def test_output_that_nobody_reads_on_changes_nothing(buffering: str, tmp_path: Path) -> None:
    compile_to = [sys.executable, buffering, "-m", "pipelines", "compile", "--output-dir", str(tmp_path)]
    process = subprocess.Popen(compile_to, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate()
    assert (process.returncode, said) == (0, b"")
    assert {path.stem for path in tmp_path.iterdir()} == set(names())


@pytest.mark.parametrize("ending", ["return 0", "return 1", "raise UserError('why')"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_the_status_is_the_commands_own_whoever_reads_on(name: str, ending: str) -> None:
    program = (
        "import sys; from pipelines import __main__ as m; from pipelines.errors import UserError\n"
        f"def demo(args):\n    print('a line', file=sys.{name}, flush=True); print('on', file=sys.{name}); {ending}\n"
        "m.COMMANDS['demo'] = demo; sys.argv = ['pipelines', 'demo']; sys.exit(m.main())"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    nobodys = getattr(process, name)
    nobodys.close()
    said = "".join(stream.read() for stream in (process.stdout, process.stderr) if stream and stream is not nobodys)
    status = {"return 0": 0, "return 1": 1}.get(ending, 2)
    assert process.wait() == status
    assert said == ("python -m pipelines demo: error: why\n" if status == 2 and name == "stdout" else "")


def test_a_user_error_inside_a_step_is_its_own_line_and_status_2(tmp_path: Path) -> None:
    done = pipelines_command(
        "run",
        "train-and-ensemble",
        f"--root={tmp_path / 'kfp'}",
        *(f"--param={name}={tmp_path / name}" for name in ("source", "storage_uri")),
        "--param=run_id=r",
    )
    assert done.returncode == 2
    start, error, summary = done.stderr.splitlines()
    assert start == "stage-data: landseg stage-data"
    assert error.startswith(f"landseg stage-data: error: {tmp_path / 'source'}")
    assert summary == "python -m pipelines run: stage-data failed with exit status 2"
    assert done.stdout == ""


def test_sigterm_ends_a_command_as_an_interrupt_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its step and its storage are ended by the same handlers (tests/stages/test_leaves_no_process.py)."""

    def work(args: argparse.Namespace) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    parser = argparse.ArgumentParser()
    parser.set_defaults(function=work, command="run")
    monkeypatch.setattr(command_line, "parser", lambda *_: parser)
    monkeypatch.setattr(sys, "argv", ["pipelines"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command_line.main() == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "terminated\n"
