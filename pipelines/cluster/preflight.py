"""Checks before a run is submitted, so that it does not fail an hour later in a pod."""

from __future__ import annotations

import os
import re
import uuid

import botocore.exceptions
import kubernetes
import yaml

from pipelines.cluster.client import Server, newer, quiet, too_old
from pipelines.dags.scheduling import SERVICE_ACCOUNT, STORAGE_ENV, STORAGE_SECRET
from pipelines.errors import UserError
from pipelines.object_storage import s3_client
from pipelines.timeouts import TIMEOUT_S

_STORAGE_URI = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,254}(/(?!\.{1,2}(/|$))[^/\x00-\x1f\x7f]+)*/*")
"""What every stage accepts as the root in object storage (landseg.storage.uris), less local folders."""


def check_images(package: str) -> str:
    """Check that every image has a tag that does not move; return a note where they have no registry.

    Raises:
        UserError: a tag is missing or `latest`.
    """
    executors = next(yaml.safe_load_all(package))["deploymentSpec"]["executors"].values()
    images = sorted({executor["container"]["image"] for executor in executors})
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        if not tag or tag == "latest":
            raise UserError(f"image {image}: expected a tag that does not move, found {tag or 'none'}")
    if "/" not in images[0]:
        return f"images have no registry ({images[0]}): the nodes must have them, else give REGISTRY"
    return ""


def check_version(server: Server) -> str:
    """Return a note where the server is older than what the pipelines are compiled for."""
    if too_old(server):
        return f"the server is KFP {server.version}, older than the release the pipelines are compiled for"
    return ""


def check_secret(namespace: str) -> str:
    """Check that the secret with the credentials of object storage is complete; return a note where it cannot be read.

    Raises:
        UserError: there is none, or it lacks a key.
    """
    try:
        with quiet():
            kubernetes.config.load_config()
            api = kubernetes.client.CoreV1Api()
            secret = api.read_namespaced_secret(STORAGE_SECRET, namespace, _request_timeout=TIMEOUT_S)
    except kubernetes.config.ConfigException:
        return f"secret {STORAGE_SECRET} not checked: there is no kubeconfig here"
    except kubernetes.client.ApiException as err:
        if err.status == 404:
            raise UserError(
                f"namespace {namespace} has no secret {STORAGE_SECRET}: make deploy, or docs/kubeflow.md"
            ) from err
        return f"secret {STORAGE_SECRET} not checked: the cluster answered {err.status}"
    except Exception as err:  # no kubeconfig, no route, an expired login: each of kubernetes' own kinds
        return f"secret {STORAGE_SECRET} not checked: {(str(err).splitlines() or [type(err).__name__])[0][:120]}"
    missing = [name for name in STORAGE_ENV if name not in (secret.data or {})]
    if missing:
        raise UserError(f"secret {STORAGE_SECRET} in namespace {namespace} lacks {', '.join(missing)}")
    return ""


def service_account(server: Server, namespace: str) -> tuple[str, str]:
    """The account for a run's pods where none was given, and a note.

    That of `make deploy`, which may less than KFP's own. A profile of a multi-user Kubeflow has an account of its own.

    Returns:
        The account, empty for KFP's default; and why it is not landseg's, where somebody might expect that.
    """
    if server.multi_user:
        return "", ""
    try:
        with quiet():
            kubernetes.config.load_config()
            api = kubernetes.client.CoreV1Api()
            api.read_namespaced_service_account(SERVICE_ACCOUNT, namespace, _request_timeout=TIMEOUT_S)
    except Exception:  # not deployed, or nobody here may ask: then KFP's own account runs the pods, as it always did
        return "", f"pods run as KFP's own account: {SERVICE_ACCOUNT} was not found in namespace {namespace}"
    if newer(server, (2, 17)):
        return "", (
            f"pods run as KFP's own account: from 2.18 KFP takes {SERVICE_ACCOUNT} only where its"
            f" ALLOWEDSERVICEACCOUNTS lists it; then give SERVICE_ACCOUNT={SERVICE_ACCOUNT}"
        )
    return SERVICE_ACCOUNT, ""


def check_storage(storage_uri: str) -> str:
    """Check that object storage accepts an object; return a note where it cannot be reached from here.

    Raises:
        UserError: it is not an S3 URI, or it refuses.
    """
    bucket, _, prefix = storage_uri.removeprefix("s3://").partition("/")
    if not _STORAGE_URI.fullmatch(storage_uri):
        raise UserError(f"--storage-uri: a cluster needs s3://bucket/prefix, found {storage_uri!r}")
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        return "object storage not checked: AWS_ACCESS_KEY_ID is not set here"
    key = "/".join(part for part in (prefix.strip("/"), f".preflight-{uuid.uuid4().hex}") if part)
    client = s3_client()
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"landseg")
        client.delete_object(Bucket=bucket, Key=key)
    except botocore.exceptions.ClientError as err:
        raise UserError(f"{storage_uri} does not accept objects: {err.response['Error'].get('Code', err)}") from err
    except botocore.exceptions.BotoCoreError as err:
        return f"object storage not checked, it is out of reach from here: {err}"
    return ""
