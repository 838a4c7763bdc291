"""A KFP API server on loopback: the v2beta1 endpoints that submission uses, in the server's own OpenAPI models.

Request bodies are read into `kfp_server_api` models and uploads into KFP's PipelineSpec, so what the real server would
reject as malformed is rejected here too. Faults are injected by path.
"""

from __future__ import annotations

import datetime
import email.parser
import email.policy
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
import yaml
from google.protobuf import json_format
from http_server import Quiet
from kfp.pipeline_spec import pipeline_spec_pb2

_MODELS = api.ApiClient()
_KINDS = {"STRING": str, "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool}
_KINDS |= {"LIST": list, "STRUCT": dict}


class RefusedError(Exception):
    """Answered with a status and KFP's error body."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


@dataclass
class Fault:
    """What happens to requests of a path: a status, silence, a page in place of KFP's answer."""

    status: int = 0
    message: str = "injected"
    page: str = ""
    silent_s: float = 0.0
    times: int = 1_000_000


@dataclass
class KfpServer:
    """Use as a context manager.

    Attributes:
        version: what the health endpoint says.
        token: if set, requests need it as a bearer token.
        cookie: if set, requests need it as their cookie, and are sent to Dex without it.
        faults: by path ending.
        requests: method and path of every request.
        runs: by id, as they were created.
        states: what a run goes through, one per poll.
        final_state: in which runs end.
    """

    version: str = "2.17.1"
    token: str = ""
    cookie: str = ""
    users: dict[str, str] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    pipelines: dict[str, api.V2beta1Pipeline] = field(default_factory=dict)
    versions: dict[str, api.V2beta1PipelineVersion] = field(default_factory=dict)
    experiments: dict[str, api.V2beta1Experiment] = field(default_factory=dict)
    runs: dict[str, api.V2beta1Run] = field(default_factory=dict)
    specs: dict[str, pipeline_spec_pb2.PipelineSpec] = field(default_factory=dict)
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING"])
    final_state: str = "SUCCEEDED"
    _polls: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        server = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.handle(self, "GET")

            def do_POST(self) -> None:
                server.handle(self, "POST")

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def handle(self, request: BaseHTTPRequestHandler, method: str) -> None:
        url = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.requests.append((method, url.path))
        try:
            if page := self._fault(url.path):
                self._send(request, 200, page)
                return
            if url.path.startswith("/dex") or not self._authorised(request):
                self._login(request, method, url.path, body)
                return
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            answer = self._route(method, url.path)(url.path, query, body, request.headers)
            self._send(request, 200, _MODELS.sanitize_for_serialization(answer))
        except RefusedError as err:
            self._send(request, err.status, {"error": err.message, "code": err.status, "message": err.message})

    def _fault(self, path: str) -> str:
        """The page to answer with, if any."""
        for ending, fault in self.faults.items():
            if path.endswith(ending) and fault.times > 0:
                fault.times -= 1
                time.sleep(fault.silent_s)
                if fault.status:
                    raise RefusedError(fault.status, fault.message)
                return fault.page
        return ""

    def _authorised(self, request: BaseHTTPRequestHandler) -> bool:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Request header error: there is no user identity header.")
        return not self.cookie or self.cookie in (request.headers.get("Cookie") or "")

    def _login(self, request: BaseHTTPRequestHandler, method: str, path: str, body: bytes) -> None:
        """Dex: the endpoint leads to /dex/auth, that to the form, whose right answer sets the cookie."""
        if path == "/dex/auth":
            self._send(request, 200, "<html>how do you want to log in?</html>")
        elif path == "/dex/auth/local" and method == "GET":
            self._send(request, 200, '<html><form method="post"></form></html>')
        elif path == "/dex/auth/local":
            form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
            if self.users.get(form.get("login", "")) == form.get("password"):
                self._redirect(request, "/dex/done", self.cookie)
            else:
                self._send(request, 200, "<html>Invalid Email Address and password</html>")
        elif path == "/dex/done":
            self._send(request, 200, "<html>welcome</html>")
        else:
            self._redirect(request, "/dex/auth")

    def _route(self, method: str, path: str) -> Callable[..., Any]:
        base = "/apis/v2beta1/"
        if not path.startswith(base):
            raise RefusedError(404, "Not Found")
        parts = path.removeprefix(base).split("/")
        routes: dict[tuple[str, str, int], Callable[..., Any]] = {
            ("GET", "healthz", 1): self._health,
            ("GET", "pipelines", 1): self._list_pipelines,
            ("POST", "pipelines", 2): self._upload,
            ("GET", "pipelines", 3): self._list_versions,
            ("GET", "experiments", 1): self._list_experiments,
            ("POST", "experiments", 1): self._create_experiment,
            ("POST", "runs", 1): self._create_run,
            ("GET", "runs", 2): self._get_run,
        }
        if (method, parts[0], len(parts)) not in routes:
            raise RefusedError(404, "Not Found")
        return routes[method, parts[0], len(parts)]

    def _health(self, *_: Any) -> Any:
        health = _MODELS.sanitize_for_serialization(
            api.V2beta1GetHealthzResponse(multi_user=bool(self.cookie), pipeline_store="database")
        )
        return {**health, "tag_name": self.version, "commit_sha": "0"}  # the server says more than its own model

    def _list_pipelines(self, path: str, query: dict[str, str], *_: Any) -> Any:
        there = [item for item in self.pipelines.values() if (item.namespace or "") == query.get("namespace", "")]
        found = _filtered(there, query)
        return api.V2beta1ListPipelinesResponse(pipelines=found or None, total_size=len(found))

    def _upload(self, path: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        text = _uploaded(body, headers["Content-Type"])
        documents = list(yaml.safe_load_all(text))
        spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        platform = json_format.ParseDict(documents[1], pipeline_spec_pb2.PlatformSpec())
        assert platform.platforms["kubernetes"].deployment_spec.executors
        version_id = str(uuid.uuid4())
        if path.endswith("/upload"):
            if self.cookie and not query.get("namespace"):  # what KFP 2.18 says to all but administrators
                raise RefusedError(400, "Failed to create a pipeline: a namespace is required")
            if any(
                (item.display_name, item.namespace) == (query["name"], query.get("namespace"))
                for item in self.pipelines.values()
            ):
                raise RefusedError(409, f"Already exist error: the pipeline name {query['name']} is taken")
            pipeline = api.V2beta1Pipeline(
                pipeline_id=str(uuid.uuid4()), display_name=query["name"], namespace=query.get("namespace")
            )
            self.pipelines[pipeline.pipeline_id] = pipeline
            answer: Any = pipeline
        else:
            pipeline = self.pipelines[query["pipelineid"]]
            if any(item.display_name == query["name"] for item in self.versions.values()):
                raise RefusedError(409, f"Already exist error: the version name {query['name']} is taken")
            answer = None
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipeline.pipeline_id, pipeline_version_id=version_id, display_name=query["name"]
        )
        self.versions[version_id] = version
        self.specs[version_id] = spec
        return answer or version

    def _list_versions(self, path: str, *_: Any) -> Any:
        pipeline_id = path.split("/")[4]
        found = [version for version in self.versions.values() if version.pipeline_id == pipeline_id]
        return api.V2beta1ListPipelineVersionsResponse(pipeline_versions=found or None, total_size=len(found))

    def _list_experiments(self, path: str, query: dict[str, str], *_: Any) -> Any:
        found = _filtered(self.experiments.values(), query)
        return api.V2beta1ListExperimentsResponse(experiments=found or None, total_size=len(found))

    def _create_experiment(self, path: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        experiment = _model(body, "V2beta1Experiment")
        if bool(experiment.namespace) != self._health()["multi_user"]:
            raise RefusedError(400, "Invalid input error: a namespace belongs to multi-user mode")
        experiment.experiment_id = str(uuid.uuid4())
        self.experiments[experiment.experiment_id] = experiment
        return experiment

    def _create_run(self, path: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        run = _model(body, "V2beta1Run")
        assert run.experiment_id in self.experiments
        if run.pipeline_spec is not None:  # `kfp run create` sends the YAML along, and keeps no version
            spec = json_format.ParseDict(run.pipeline_spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
            json_format.ParseDict(run.pipeline_spec["platform_spec"], pipeline_spec_pb2.PlatformSpec())
        else:
            spec = self.specs[run.pipeline_version_reference.pipeline_version_id]
        declared = spec.root.input_definitions.parameters
        given = run.runtime_config.parameters
        unknown = set(given) - set(declared)
        missing = {name for name, item in declared.items() if not item.is_optional} - set(given)
        wrong = {name for name in set(given) & set(declared) if not _fits(given[name], declared[name].parameter_type)}
        if unknown or missing or wrong:
            message = f"unknown {sorted(unknown)}, missing {sorted(missing)}, of another type {sorted(wrong)}"
            raise RefusedError(400, f"Invalid input error: {message}")
        run.run_id, run.state, run.created_at = str(uuid.uuid4()), "PENDING", datetime.datetime.now(datetime.UTC)
        self.runs[run.run_id] = run
        return run

    def _get_run(self, path: str, *_: Any) -> Any:
        run = self.runs.get(path.rpartition("/")[2])
        if run is None:
            raise RefusedError(404, "run not found")
        poll = self._polls[run.run_id] = self._polls.get(run.run_id, -1) + 1
        states = [*self.states, self.final_state]
        run.state = states[min(poll, len(states) - 1)]
        run.run_details = api.V2beta1RunDetails(
            task_details=[
                api.V2beta1PipelineTaskDetail(
                    run_id=run.run_id, task_id="1", display_name="stage-data", state=run.state
                )
            ]
        )
        return run

    def _send(self, request: BaseHTTPRequestHandler, status: int, content: Any) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _redirect(self, request: BaseHTTPRequestHandler, where: str, cookie: str = "") -> None:
        request.send_response(302)
        request.send_header("Location", where)
        if cookie:
            request.send_header("Set-Cookie", f"{cookie}; Path=/")
        request.send_header("Content-Length", "0")
        request.end_headers()


def _fits(value: Any, parameter_type: int) -> bool:
    """As the API server checks it: neither `true` nor "3" is a number."""
    kind = _KINDS[pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(parameter_type)]
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _model(body: bytes, name: str) -> Any:
    """Read a body as the server's own model; a field the model does not have is refused, as protobuf does."""
    model = _MODELS.deserialize(SimpleNamespace(data=body.decode()), name)
    unknown = set(json.loads(body)) - set(model.attribute_map.values())
    if unknown:
        raise RefusedError(400, f"unknown fields {sorted(unknown)}")
    return model


def _filtered(items: Any, query: dict[str, str]) -> list[Any]:
    predicates = json.loads(query["filter"])["predicates"] if query.get("filter") else []
    wanted = [predicate.get("stringValue") or predicate.get("string_value") for predicate in predicates]
    return [item for item in items if all(item.display_name == name for name in wanted)]


def _uploaded(body: bytes, content_type: str) -> str:
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body
    )
    (part,) = message.iter_parts()
    return bytes(part.get_payload(decode=True)).decode()
