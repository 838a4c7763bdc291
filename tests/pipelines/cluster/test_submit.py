"""Submission through KFP's own client, against a server that speaks the v2beta1 protocol."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_server import Fault, KfpServer

from components.images import ROOT, version
from pipelines.arguments import parse_parameters
from pipelines.cluster import client, preflight, submit
from pipelines.dags.packages import package, with_images
from pipelines.dags.scheduling import with_queue
from pipelines.errors import UserError

TEXT = with_images(package("train-and-ensemble").read_text(), "registry.example.org/team", "")
GIVEN = ["source=s3://raw/tiles", "storage_uri=s3://landseg", "run_id=first", "epochs=3", "swin_lr=6e-5"]


@pytest.fixture(autouse=True)
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials and no cluster of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("KFP_", "KF_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in ("kubernetes.config", "kubernetes.config.kube_config"):  # KUBECONFIG is read when they are imported
        monkeypatch.setattr(f"{module}.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer() as running:
        yield running


def send(server: KfpServer, text: str = TEXT, **options: Any) -> submit.Submission:
    parameters = parse_parameters(package("train-and-ensemble"), GIVEN)
    return submit.submit(submit.Target(server.endpoint, **options), "train-and-ensemble", text, parameters, "first")


def test_a_run_is_started_with_typed_parameters(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    submission = send(server)
    run = server.runs[submission.run_id]
    assert run.display_name == "first"
    assert run.runtime_config.parameters["epochs"] == 3
    assert run.runtime_config.parameters["swin_lr"] == 6e-5
    assert submission.link == f"{server.endpoint}/#/runs/details/{submission.run_id}"
    said = capsys.readouterr()
    assert said.out == ""
    assert "KFP 2.17.1" in said.err


def test_a_repeated_submit_uploads_nothing_again(server: KfpServer) -> None:
    send(server)
    uploads = [path for method, path in server.requests if "upload" in path]
    send(server)
    assert [path for method, path in server.requests if "upload" in path] == uploads
    assert len(server.pipelines) == 1
    names = {item.display_name for item in server.versions.values()}
    assert any(name.startswith(f"{version()}-") for name in names)
    assert len(server.experiments) == 1
    assert len(server.runs) == 2


def test_other_yaml_is_another_version_of_the_same_pipeline(server: KfpServer) -> None:
    send(server)
    before = len(server.versions)
    send(server, TEXT.replace("maxRetryCount: 2", "maxRetryCount: 3"))
    assert len(server.pipelines) == 1
    assert len(server.versions) == before + 1


def test_a_version_uploaded_by_somebody_else_meanwhile_is_used(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server)
    stock, calls = submit._find_version, []

    def late(*arguments: Any) -> str | None:
        calls.append(arguments)
        return None if len(calls) == 1 else stock(*arguments)

    monkeypatch.setattr(submit, "_find_version", late)
    assert send(server).run_id in server.runs


@pytest.mark.parametrize(
    ("path", "fault", "said"),
    [
        ("healthz", Fault(status=401, message="no identity"), "refuses (401: no identity): set KFP_TOKEN"),
        ("healthz", Fault(status=404), "Kubeflow's endpoint ends with /pipeline"),
        ("healthz", Fault(status=500, message="database is down"), "failed (500: database is down): see the log"),
        ("upload", Fault(status=409, message="name is used"), "the name is taken (409: name is used)"),
        ("upload_version", Fault(status=500, message="disk full"), "failed (500: disk full)"),
        ("experiments", Fault(status=403, message="not yours"), "in a multi-user Kubeflow also --namespace"),
        ("runs", Fault(status=400, message="bad parameter"), "answered 400: bad parameter"),
    ],
)
def test_a_refusal_is_one_clear_line(server: KfpServer, path: str, fault: Fault, said: str) -> None:
    server.faults[path] = fault
    with pytest.raises(UserError) as caught:
        send(server)
    assert said in str(caught.value)
    assert str(caught.value).startswith(server.endpoint)


@pytest.mark.parametrize("path", ["pipelines", "upload", "upload_version", "experiments", "runs"])
@pytest.mark.parametrize("page", ["<html>Log in</html>", "[]"])
def test_a_page_in_place_of_kfps_answer_starts_no_run(server: KfpServer, path: str, page: str) -> None:
    """KFP's client makes an object without ids of it, as if all had gone well."""
    server.faults[path] = Fault(page=page)
    with pytest.raises(UserError, match="answers, but not as KFP does: is a login page or a proxy in the way"):
        send(server)
    assert not server.runs


@pytest.mark.parametrize("path", ["upload", "upload_version", "experiments", "runs"])
def test_an_answer_without_an_id_starts_no_run(server: KfpServer, path: str) -> None:
    server.faults[path] = Fault(page="{}")
    with pytest.raises(UserError, match="KFP answers without the id of "):
        send(server)
    assert not server.runs


@pytest.mark.parametrize("path", ["healthz", "pipelines", "runs"])
def test_a_silent_server_is_given_up_on(server: KfpServer, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", (1.0, 0.2))
    server.faults[path] = Fault(silent_s=1.0)
    with pytest.raises(UserError, match="does not answer in time"):
        send(server)


def test_nobody_there() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(UserError, match=r"out of reach .*is the port-forward running"):
        client.check_server(endpoint, {})


def test_something_else_there(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_health", lambda *_: [])
    with pytest.raises(UserError, match="not as KFP does"):
        client.check_server(server.endpoint, {})


def test_kfp_1_is_refused_and_an_older_2_noted(server: KfpServer) -> None:
    server.version = "1.8.22"
    with pytest.raises(UserError, match=r"need KFP 2, from 2\.17 on"):
        client.check_server(server.endpoint, {})
    server.version = "2.5.0"
    assert "older" in preflight.check_version(client.check_server(server.endpoint, {}))
    server.version = "2.17.1"
    assert preflight.check_version(client.check_server(server.endpoint, {})) == ""


def test_a_token_is_sent(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "secret"
    monkeypatch.setenv("KFP_TOKEN", "secret")
    assert send(server).run_id in server.runs


def test_the_token_of_a_pod_is_sent(server: KfpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.token = "projected"
    (tmp_path / "token").write_text("projected\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert send(server).run_id in server.runs


def test_a_session_cookie_is_sent(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cookie = "oauth2_proxy_kubeflow=abc"
    with pytest.raises(UserError, match="asks for a login: set KFP_TOKEN, KFP_COOKIES"):
        send(server, namespace="me")
    monkeypatch.setenv("KFP_COOKIES", server.cookie)
    assert send(server, namespace="me").run_id in server.runs
    send(server, namespace="me")
    (experiment,) = server.experiments.values()
    assert experiment.namespace == "me"
    assert [pipeline.namespace for pipeline in server.pipelines.values()] == ["me"]
    assert len(server.versions) == 2  # that of the upload, and landseg's own


def test_a_multi_user_kubeflow_needs_a_namespace(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cookie = "authservice_session=xyz"
    monkeypatch.setenv("KFP_COOKIES", server.cookie)
    monkeypatch.setattr(submit, "_POD_NAMESPACE", Path("/nonexistent"))
    with pytest.raises(UserError, match="is a multi-user Kubeflow: give your profile's namespace, NAMESPACE="):
        send(server)
    assert not server.pipelines


def test_where_kfp_is_alone_its_namespace_is_no_profile(server: KfpServer) -> None:
    assert send(server, namespace="kfp").run_id in server.runs
    assert [pipeline.namespace for pipeline in server.pipelines.values()] == [None]


def test_logging_in_as_the_login_page_does(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cookie, server.users = "authservice_session=xyz", {"me@example.org": "right"}
    monkeypatch.setenv("KFP_USERNAME", "me@example.org")
    monkeypatch.setenv("KFP_PASSWORD", "wrong")
    with pytest.raises(UserError, match="does not accept KFP_USERNAME and KFP_PASSWORD"):
        send(server, namespace="me")
    monkeypatch.setenv("KFP_PASSWORD", "right")
    assert send(server, namespace="me").run_id in server.runs


@pytest.mark.parametrize(
    ("image", "said"), [("a/landseg-x:latest", "found latest"), ("a:5000/landseg-x", "found none")]
)
def test_images_need_a_tag_that_does_not_move(image: str, said: str) -> None:
    text = TEXT.replace(f"registry.example.org/team/landseg-stage-data:{version()}", image)
    with pytest.raises(UserError, match=said):
        preflight.check_images(text)
    assert preflight.check_images(TEXT) == ""
    assert "no registry" in preflight.check_images(package("predict").read_text())


def test_object_storage_is_tried(s3: Any) -> None:
    assert preflight.check_storage(s3.uri) == ""
    with pytest.raises(UserError, match="does not accept objects: NoSuchBucket"):
        preflight.check_storage("s3://no-such-bucket/prefix")
    for wrong in ("/a/folder", "s3:/bucket", "s3://", "s3://b", "s3://bucket//a", "s3://bucket/../a", "gs://bucket/a"):
        with pytest.raises(UserError, match="a cluster needs s3://bucket/prefix"):
            preflight.check_storage(wrong)


def test_wrong_storage_credentials(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="does not accept objects: SignatureDoesNotMatch"):
        preflight.check_storage(s3.uri)


def test_kueue_gets_the_steps_with_gpus() -> None:
    spec, platform = yaml.safe_load_all(with_queue(TEXT, "gpus"))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    labels = {name: pod.get("podMetadata", {}).get("labels", {}) for name, pod in executors.items()}
    queued = {name for name, found in labels.items() if found.get("kueue.x-k8s.io/queue-name") == "gpus"}
    assert queued == {"exec-train-swin", "exec-train-resnest", "exec-export-probs", "exec-export-probs-2"}
    assert spec == next(yaml.safe_load_all(TEXT))
    assert with_queue(TEXT, "") == TEXT


def pipelines_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_command_submits_and_prints_the_link_alone(server: KfpServer) -> None:
    done = pipelines_command(
        "submit", f"--endpoint={server.endpoint}", "--storage-uri=s3://landseg", "--source=s3://raw/tiles",
        "--run-id=r1", "--registry=registry.example.org/team", "--param=epochs=2", "--no-cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run_id,) = server.runs
    assert done.stdout == f"{server.endpoint}/#/runs/details/{run_id}\n"
    reference = server.runs[run_id].pipeline_version_reference
    tasks = server.specs[reference.pipeline_version_id].root.dag.tasks
    assert not any(task.caching_options.enable_cache for task in tasks.values())


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "inf", "1h"])
def test_a_time_that_is_none_is_refused_before_a_run_is_started(server: KfpServer, seconds: str) -> None:
    done = pipelines_command(
        "submit", f"--endpoint={server.endpoint}", "--storage-uri=s3://landseg", "--source=s3://raw/tiles",
        "--wait", f"--timeout={seconds}",
    )  # fmt: skip
    assert (done.returncode, server.requests) == (2, [])
    assert f"argument --timeout: expected seconds above 0, found '{seconds}'" in done.stderr


def test_no_endpoint_is_a_user_error() -> None:
    done = pipelines_command("submit", "--storage-uri=s3://landseg", "--source=s3://raw/tiles")
    assert done.returncode == 2
    assert (
        done.stderr == "python -m pipelines submit: error: no endpoint: give --endpoint or set KF_PIPELINES_ENDPOINT\n"
    )


def kfp_command(server: KfpServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    kfp = Path(sysconfig.get_path("scripts")) / "kfp"
    command = [str(kfp), "--endpoint", server.endpoint, "run", "create", "--experiment-name", "landseg", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_kfps_own_command_starts_the_compiled_pipeline(server: KfpServer, tmp_path: Path) -> None:
    compiled = pipelines_command("compile", f"--output-dir={tmp_path}", "--registry=registry.example.org/team")
    assert compiled.returncode == 0, compiled.stderr
    done = kfp_command(
        server, "--run-name", "first", "--package-file", str(tmp_path / "train-and-ensemble.yaml"),
        "source=s3://raw/tiles", "storage_uri=s3://landseg", "run_id=first", "epochs=3", 'node_selector={"pool":"gpu"}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert run.display_name == "first"
    assert run.runtime_config.parameters["epochs"] == 3
    assert run.runtime_config.parameters["node_selector"] == {"pool": "gpu"}
    assert run.run_id in done.stdout


def test_the_server_refuses_a_parameter_of_another_type(server: KfpServer, tmp_path: Path) -> None:
    done = kfp_command(
        server, "--run-name", "first", "--package-file", str(package("train-and-ensemble")),
        "source=s3://raw/tiles", "storage_uri=s3://landseg", "run_id=1",
    )  # fmt: skip
    assert done.returncode != 0
    assert "of another type ['run_id']" in done.stderr + done.stdout
