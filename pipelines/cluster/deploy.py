"""Prepare a namespace of a cluster: an overlay of `manifests/`, adapted to the namespace and to the cluster."""

from __future__ import annotations

import base64
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import yaml

from components.images import ROOT
from pipelines.cluster import kubectl, network_policy
from pipelines.dags.scheduling import PROXY_ENV, SETTINGS, STORAGE_SECRET
from pipelines.errors import UserError

OVERLAYS = ROOT / "manifests" / "overlays"

_NAMESPACE = "kubeflow"
"""The namespace that the manifests are written for."""

_LAUNCHER = "kfp-launcher"
"""KFP's ConfigMap with the place of its artifacts; its name cannot be chosen."""

_PART_OF = "app.kubernetes.io/part-of"

_STAGES_POLICY = "landseg-stages"

_POLICIES = (("NetworkPolicy", _STAGES_POLICY), ("NetworkPolicy", network_policy.STORAGE))
_QUOTA = ("ResourceQuota", "landseg-gpus")


def run(overlay: str, namespace: str, *, policy: str = "", pull_secret: str = "", dry_run: bool = False) -> None:
    """Apply an overlay, or print what would be applied.

    Args:
        overlay: its folder's name in `manifests/overlays`.
        namespace: where KFP starts pods.
        policy: `none` leaves the network policies out.
        pull_secret: name of the secret for the registry of the images.
        dry_run: print the YAML and change nothing; the cluster is only asked what the network policy has to fit.

    Raises:
        UserError: there is no such overlay or no secret in the namespace, or kubectl fails.
    """
    namespace = namespace or _NAMESPACE
    known = sorted(path.name for path in OVERLAYS.iterdir())
    if overlay not in known:
        raise UserError(f"OVERLAY: expected one of {', '.join(known)}, found {overlay!r}")
    if policy not in ("", "none"):
        raise UserError(f"NETWORK_POLICY: expected none, or nothing for the overlay's, found {policy!r}")
    endpoint = _endpoint(namespace, dry_run=dry_run)
    objects = list(yaml.safe_load_all(kubectl.run("kustomize", str(OVERLAYS / overlay))))
    move(objects, namespace)
    use_pull_secret(objects, pull_secret)
    if policy == "none":
        objects = [item for item in objects if item["kind"] != "NetworkPolicy"]
    else:
        _fit_policy(objects, namespace, endpoint, dry_run=dry_run)
    if dry_run:
        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
        return
    objects = leave_foreign_launcher(objects, kubectl.get(namespace, "configmap", _LAUNCHER))
    objects = keep_volumes(objects, kubectl.get(namespace, "statefulset", network_policy.STORAGE))
    # The secret is in it, so it exists; its labels, such as those of Pod Security, are its administrator's.
    objects = [item for item in objects if item["kind"] != "Namespace"]
    if objects:
        _apply(yaml.safe_dump_all(objects, sort_keys=False))
    _remove_replaced(objects, namespace, policies=policy != "none")


def _apply(text: str) -> None:
    apply = ("apply", "--server-side", "--field-manager=landseg", "--filename", "-")
    try:
        kubectl.run(*apply, "--dry-run=server", text=text)
    except UserError as err:
        raise UserError(f"{err} (nothing was changed)") from err
    print(kubectl.run(*apply, text=text), end="")


def _remove_replaced(objects: list[Any], namespace: str, *, policies: bool) -> None:
    """Remove what an earlier overlay has left and what would still bind; a note where that is refused."""
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for kind, name in [_QUOTA] if policies else [_QUOTA, *_POLICIES]:
        found = None if (kind, name) in there else kubectl.get(namespace, kind.lower(), name)
        if found is None or not _is_landsegs(found):
            continue
        try:
            print(kubectl.run("delete", kind.lower(), name, "--namespace", namespace), end="")
        except UserError as err:
            _note(f"{kind} {name} of an earlier overlay still holds: {err}")


def leave_foreign_launcher(objects: list[Any], existing: dict[str, Any] | None) -> list[Any]:
    """Leave out KFP's settings where they are somebody else's: they hold for every run in the namespace.

    Args:
        objects: of an overlay.
        existing: the ConfigMap in the cluster.
    """
    has_launcher = any((item["kind"], item["metadata"]["name"]) == ("ConfigMap", _LAUNCHER) for item in objects)
    if not has_launcher or existing is None or _is_landsegs(existing):
        return objects
    _note(
        f"the ConfigMap {_LAUNCHER} is not landseg's and stays as it is: KFP keeps reports and references where"
        " it says; for landseg's bucket, merge into it what --dry-run prints"
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
                _note(f"storage keeps its volume of {sizes[1][0]}, not {sizes[0][0]}")
            # As Kubernetes returns it, with its defaults: whatever else differs could not be changed either.
            item["spec"]["volumeClaimTemplates"] = [
                {"metadata": {"name": one["metadata"]["name"]}, "spec": one["spec"]} for one in kept
            ]
    return objects


def move(objects: list[Any], namespace: str) -> None:
    """Move objects to a namespace.

    Args:
        objects: of an overlay; changed in place.
        namespace: where they go.
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


def use_pull_secret(objects: list[Any], name: str) -> None:
    """Have the images of an overlay's own pods pulled with a secret.

    Args:
        objects: of an overlay; changed in place.
        name: of the secret; empty changes nothing.
    """
    for item in objects if name else ():
        if item["kind"] == "StatefulSet":
            item["spec"]["template"]["spec"]["imagePullSecrets"] = [{"name": name}]
        if item["kind"] == "ServiceAccount":
            item["imagePullSecrets"] = [{"name": name}]


def _fit_policy(objects: list[Any], namespace: str, endpoint: str, *, dry_run: bool) -> None:
    (policy,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == _POLICIES[0]]
    network_policy.open_endpoint(policy, endpoint, namespace)
    network_policy.narrow_control_plane(policy, _control_plane())
    for name, proxy in _proxies(namespace, dry_run=dry_run).items():
        rules = network_policy.rules_for(proxy, name, namespace)
        policy["spec"]["egress"] += [rule for rule in rules if rule not in policy["spec"]["egress"]]
    try:
        cilium = "ciliumnetworkpolicies" in kubectl.run("api-resources", "--api-group=cilium.io", "--output=name")
    except UserError:
        cilium = False
    if cilium:
        _note(
            "this cluster has Cilium, which matches no address of a network policy to a node: pods need a policy of its"
            " own kind to reach the control plane (docs/kubeflow.md, Networks)"
        )


def _endpoint(namespace: str, *, dry_run: bool) -> str:
    """`AWS_ENDPOINT_URL` of the stages; empty means AWS.

    Raises:
        UserError: there is no secret with it.
    """
    try:
        secret = kubectl.get(namespace, "secret", STORAGE_SECRET)
    except UserError as err:
        if not dry_run:
            raise
        secret = None
        _note(f"the secret {STORAGE_SECRET} was not read: {err}")
    if secret is not None:
        return base64.b64decode(secret.get("data", {}).get("AWS_ENDPOINT_URL", "")).decode(errors="replace").strip()
    if not dry_run:
        raise UserError(
            f"namespace {namespace} has no secret {STORAGE_SECRET}: create it first (manifests/storage-secret.yaml)"
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    _note(f"the network policy is fitted to AWS_ENDPOINT_URL as it is here: {endpoint.rpartition('@')[2] or 'AWS'}")
    return endpoint


def _proxies(namespace: str, *, dry_run: bool) -> dict[str, str]:
    """Proxies of the stages by the names of their variables, from landseg's settings in the cluster."""
    try:
        settings = kubectl.get(namespace, "configmap", SETTINGS)
    except UserError:
        if not dry_run:
            raise
        return {}
    data = (settings or {}).get("data") or {}
    return {name: data[name] for name in PROXY_ENV if data.get(name)}


def _control_plane() -> list[tuple[str, int]]:
    """Addresses and ports behind the service `kubernetes`; empty addresses where they may not be read."""
    try:
        slices = kubectl.endpoint_slices("default", "kubernetes")
        ports = sorted({int(port["port"]) for piece in slices for port in piece.get("ports") or []})
        if found := [(address, port) for address in kubectl.addresses(slices) for port in ports]:
            return found
        reason = "no address is listed"
    except UserError as err:
        reason = str(err)
    # The address that kubectl uses may be a load balancer's; its port is mostly the API server's own.
    server = kubectl.run("config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}")
    ports = sorted({network_policy.API_PORT, urlsplit(server).port or 443})
    listed = " and ".join(map(str, ports))
    _note(f"the network policy leaves port {listed} open to any address, for the Kubernetes API: {reason}")
    return [("", port) for port in ports]


def _is_landsegs(item: dict[str, Any]) -> bool:
    return bool(item["metadata"].get("labels", {}).get(_PART_OF) == "landseg")


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)
