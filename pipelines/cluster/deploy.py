"""Prepare a namespace of a cluster: an overlay of `manifests/`, adapted to the namespace and to the control plane."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import yaml

from components.images import ROOT
from pipelines.dags.scheduling import STORAGE_SECRET
from pipelines.errors import UserError

OVERLAYS = ROOT / "manifests" / "overlays"

_NAMESPACE = "kubeflow"
"""The namespace that the manifests are written for."""

_LAUNCHER = "kfp-launcher"
"""KFP's ConfigMap with the place of its artifacts; its name cannot be chosen."""

_PART_OF = "app.kubernetes.io/part-of"

_API_PORT = 6443
"""The Kubernetes API's port in the network policy, used where its addresses are not known."""


def run(overlay: str, namespace: str, *, dry_run: bool = False) -> None:
    """Apply an overlay, or print what would be applied.

    Args:
        overlay: its folder's name in `manifests/overlays`.
        namespace: where KFP starts pods.
        dry_run: print the YAML and change nothing; only the control plane's addresses are queried.

    Raises:
        UserError: there is no such overlay or no secret in the namespace, or kubectl fails.
    """
    namespace = namespace or _NAMESPACE
    known = sorted(path.name for path in OVERLAYS.iterdir())
    if overlay not in known:
        raise UserError(f"OVERLAY: expected one of {', '.join(known)}, found {overlay!r}")
    if not dry_run:
        _check_secret(namespace)
    objects = list(yaml.safe_load_all(_kubectl("kustomize", str(OVERLAYS / overlay))))
    objects = adapt_to_cluster(objects, namespace, _control_plane())
    if dry_run:
        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
        return
    objects = leave_foreign_launcher(objects, _existing(namespace, "configmap", _LAUNCHER))
    objects = keep_volumes(objects, _existing(namespace, "statefulset", "landseg-storage"))
    # The secret is in it, so it exists; its labels, such as those of Pod Security, are its administrator's.
    objects = [item for item in objects if item["kind"] != "Namespace"]
    text = yaml.safe_dump_all(objects, sort_keys=False)
    apply = ("apply", "--server-side", "--field-manager=landseg", "--filename", "-")
    try:
        _kubectl(*apply, "--dry-run=server", text=text)
    except UserError as err:
        raise UserError(f"{err} (nothing was changed)") from err
    print(_kubectl(*apply, text=text), end="")


def leave_foreign_launcher(objects: list[Any], existing: dict[str, Any] | None) -> list[Any]:
    """Leave out KFP's settings where they are somebody else's: they hold for every run in the namespace.

    Args:
        objects: of an overlay.
        existing: the ConfigMap in the cluster.
    """
    if existing is None or existing["metadata"].get("labels", {}).get(_PART_OF) == "landseg":
        return objects
    print(
        f"note: the ConfigMap {_LAUNCHER} is not landseg's and stays as it is: KFP keeps reports and references where"
        " it says; for landseg's bucket, merge into it what --dry-run prints",
        file=sys.stderr,
    )
    return [item for item in objects if (item["kind"], item["metadata"]["name"]) != ("ConfigMap", _LAUNCHER)]


def keep_volumes(objects: list[Any], existing: dict[str, Any] | None) -> list[Any]:
    """Leave the volumes of storage that is there as they are: Kubernetes changes no claim template, and data stays.

    Args:
        objects: of an overlay; changed in place.
        existing: the StatefulSet in the cluster.
    """
    for item in objects:
        if existing and item["kind"] == "StatefulSet":
            templates, kept = (one["spec"]["volumeClaimTemplates"] for one in (item, existing))
            sizes = [[one["spec"]["resources"]["requests"]["storage"] for one in some] for some in (templates, kept)]
            if sizes[0] != sizes[1]:
                print(f"note: storage keeps its volume of {sizes[1][0]}, not {sizes[0][0]}", file=sys.stderr)
            # As Kubernetes returns it, with its defaults: whatever else differs could not be changed either.
            item["spec"]["volumeClaimTemplates"] = [
                {"metadata": {"name": one["metadata"]["name"]}, "spec": one["spec"]} for one in kept
            ]
    return objects


def adapt_to_cluster(objects: list[Any], namespace: str, control_plane: list[tuple[str, int]]) -> list[Any]:
    """Move objects to a namespace, and narrow the network policy to the control plane.

    Args:
        objects: of an overlay; changed in place.
        namespace: where they go.
        control_plane: addresses and ports of the Kubernetes API; empty leaves its port open to any address.
    """
    for item in objects:
        if item["metadata"].get("namespace") == _NAMESPACE:
            item["metadata"]["namespace"] = namespace
        if item["kind"] == "Namespace":
            item["metadata"]["name"] = namespace
        for subject in item.get("subjects", []):
            subject["namespace"] = namespace
        if item["metadata"]["name"] == _LAUNCHER:
            providers = item["data"]["providers"]
            item["data"]["providers"] = providers.replace(f".{_NAMESPACE}.svc", f".{namespace}.svc")
        if item["kind"] == "NetworkPolicy" and control_plane:
            egress = item["spec"]["egress"]
            (wide,) = [rule for rule in egress if [port["port"] for port in rule["ports"]] == [_API_PORT]]
            egress.remove(wide)
            egress += [
                {
                    "to": [{"ipBlock": {"cidr": f"{address}/{128 if ':' in address else 32}"}}],
                    "ports": [{"protocol": "TCP", "port": port}],
                }
                for address, port in control_plane
            ]
    return objects


def _check_secret(namespace: str) -> None:
    try:
        _kubectl("get", "secret", STORAGE_SECRET, "--namespace", namespace, "--output", "name")
    except UserError as err:
        if "NotFound" not in str(err):
            raise
        raise UserError(
            f"namespace {namespace} has no secret {STORAGE_SECRET}: create it first (manifests/storage-secret.yaml)"
        ) from err


def _existing(namespace: str, kind: str, name: str) -> dict[str, Any] | None:
    """An object of the cluster; none where it does not exist."""
    text = _kubectl("get", kind, name, "--namespace", namespace, "--ignore-not-found", "--output", "json")
    return dict(json.loads(text)) if text.strip() else None


def _control_plane() -> list[tuple[str, int]]:
    """Addresses and ports behind the service `kubernetes`; none where they may not be read."""
    try:
        text = _kubectl(
            *("get", "endpointslices", "--namespace", "default", "--output", "json"),
            *("--selector", "kubernetes.io/service-name=kubernetes"),
        )
    except UserError as err:
        print(f"note: the network policy leaves port {_API_PORT} open to any address: {err}", file=sys.stderr)
        return []
    return sorted(
        (address, int(port["port"]))
        for piece in json.loads(text)["items"]
        for endpoint in piece.get("endpoints") or []
        for address in endpoint["addresses"]
        for port in piece.get("ports") or []
    )


def _kubectl(*arguments: str, text: str | None = None) -> str:
    found = shutil.which("kubectl") or str(Path(sysconfig.get_path("scripts")) / "kubectl")
    done = subprocess.run([found, *arguments], input=text, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"kubectl {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout
