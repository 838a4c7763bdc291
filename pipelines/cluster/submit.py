"""Submit a pipeline to Kubeflow Pipelines."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api

from components.images import version
from pipelines.cluster import capacity, client, preflight
from pipelines.errors import UserError
from pipelines.source import Listing

EXPERIMENT = "landseg"
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Submission:
    """A run that was started.

    Attributes:
        run_id: KFP's own id of the run.
        link: the run in the Kubeflow UI.
    """

    run_id: str
    link: str


@dataclass(frozen=True)
class Target:
    """Where to submit to.

    Attributes:
        endpoint: of the KFP API, as `client.normalise` gives it.
        namespace: the user's namespace in a multi-user Kubeflow; else the namespace KFP runs in.
        service_account: for the pods; empty means landseg's where it is there and KFP takes it, else KFP's default.
    """

    endpoint: str
    namespace: str = ""
    service_account: str = ""


def submit(
    target: Target,
    pipeline: str,
    package: str,
    parameters: dict[str, Any],
    run_name: str,
    *,
    listing: Listing | None = None,
    use_cache: bool = True,
) -> Submission:
    """Run the checks, upload the pipeline's version unless KFP has it already, and start a run.

    Args:
        target: where to.
        pipeline: the pipeline's name in KFP.
        package: compiled YAML.
        parameters: of the pipeline.
        run_name: shown in the UI.
        listing: what lies at the source of tiles, where it can be seen from here.
        use_cache: let KFP reuse the outputs of identical steps.

    Raises:
        UserError: what a check found, or why the server refused.
    """
    capacity.check_export_workers(parameters)
    notes = [
        capacity.check_archive(package, str(parameters.get("source", ""))),
        capacity.check_dataset(package, str(parameters.get("dataset_uri", ""))),
    ]
    if listing is not None:
        notes.append(capacity.check_listing(package, listing, int(parameters.get("stage_workers", 1))))
    login = client.credentials(target.endpoint)
    server = client.check_server(target.endpoint, login)
    _say(f"{target.endpoint} is KFP {server.version}{', multi-user' if server.multi_user else ''}")
    namespace = _profile(target) if server.multi_user else None
    account, account_note = target.service_account, ""
    if not account:
        account, account_note = preflight.service_account(server, namespace or target.namespace or "kubeflow")
    notes += [
        preflight.check_version(server),
        preflight.check_images(package),
        preflight.check_secret(namespace or target.namespace or "kubeflow"),
        preflight.check_storage(str(parameters["storage_uri"])),
        account_note,
    ]
    for note in filter(None, notes):
        _say(f"note: {note}")
    connection = client.connect(target.endpoint, login, namespace or "")
    with client.explained(target.endpoint), client.quiet():
        pipeline_id, version_id = _upload(connection, pipeline, package, namespace)
        experiment = connection.create_experiment(EXPERIMENT, namespace=namespace)
        run = connection.run_pipeline(
            _known(experiment.experiment_id, "an experiment"),
            run_name,
            params=parameters,
            pipeline_id=pipeline_id,
            version_id=version_id,
            enable_caching=None if use_cache else False,
            service_account=account or None,
        )
        run_id = _known(run.run_id, "a run")
    return Submission(run_id, f"{target.endpoint}/#/runs/details/{run_id}")


def _profile(target: Target) -> str:
    """The namespace in a multi-user Kubeflow: the one that is given, or that of the pod that submits.

    Raises:
        UserError: there is neither.
    """
    if target.namespace:
        return target.namespace
    if _POD_NAMESPACE.is_file():
        return _POD_NAMESPACE.read_text().strip()
    raise UserError(
        f"{target.endpoint} is a multi-user Kubeflow: give your profile's namespace, NAMESPACE=… (--namespace)"
    )


def _upload(connection: kfp.Client, pipeline: str, package: str, namespace: str | None) -> tuple[str, str]:
    """The ids of the pipeline and of the version with exactly this YAML; each is created if it does not exist.

    With a namespace, the pipeline is private to it: ordinary users may share none.
    """
    name = f"{version()}-{hashlib.sha256(package.encode()).hexdigest()[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{pipeline}.yaml"
        path.write_text(package)
        pipeline_id = _find_pipeline(connection, pipeline, namespace)
        if pipeline_id is None:
            uploaded = connection.upload_pipeline(str(path), pipeline_name=pipeline, namespace=namespace)
            pipeline_id = _known(uploaded.pipeline_id, "a pipeline")
        version_id = _find_version(connection, pipeline_id, name)
        if version_id is None:
            try:
                uploaded = connection.upload_pipeline_version(str(path), name, pipeline_id=pipeline_id)
                version_id = _known(uploaded.pipeline_version_id, "a pipeline's version")
            except kfp_server_api.ApiException as err:
                version_id = _find_version(connection, pipeline_id, name) if err.status == 409 else None
                if version_id is None:  # 409: someone else uploaded it in the meantime
                    raise
    return pipeline_id, version_id


def _known(identity: str | None, what: str) -> str:
    """The id in KFP's answer.

    Raises:
        UserError: there is none.
    """
    if not identity:
        raise UserError(f"KFP answers without the id of {what}: see the log of the ml-pipeline deployment")
    return identity


def _find_pipeline(connection: kfp.Client, name: str, namespace: str | None) -> str | None:
    same = {"operation": 1, "key": "display_name", "stringValue": name}  # 1: equals
    page = connection.list_pipelines(filter=json.dumps({"predicates": [same]}), namespace=namespace)
    return str(page.pipelines[0].pipeline_id) if page.pipelines else None


def _find_version(connection: kfp.Client, pipeline_id: str, name: str) -> str | None:
    token = ""
    while True:
        page = connection.list_pipeline_versions(pipeline_id, page_token=token, page_size=100)
        for item in page.pipeline_versions or []:
            if item.display_name == name:
                return str(item.pipeline_version_id)
        token = page.next_page_token or ""
        if not token:
            return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
