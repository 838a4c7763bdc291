"""What the stages talk to in a cluster, and their network policy fitted to it: storage, control plane, proxies."""

from __future__ import annotations

import base64
import os
from typing import Any
from urllib.parse import urlsplit

from pipelines.cluster import kubectl, network_policy
from pipelines.cluster.notes import note
from pipelines.dags.scheduling import PROXY_ENV, SETTINGS, STORAGE_SECRET
from pipelines.errors import UserError


def find_endpoint(namespace: str, *, dry_run: bool) -> str:
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
        note(f"the secret {STORAGE_SECRET} was not read: {err}")
    if secret is not None:
        return base64.b64decode(secret.get("data", {}).get("AWS_ENDPOINT_URL", "")).decode(errors="replace").strip()
    if not dry_run:
        raise UserError(
            f"namespace {namespace} has no secret {STORAGE_SECRET}: create it first (manifests/storage-secret.yaml)"
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    note(f"the network policy is fitted to AWS_ENDPOINT_URL as it is here: {endpoint.rpartition('@')[2] or 'AWS'}")
    return endpoint


def fit_policy(policy: dict[str, Any], namespace: str, endpoint: str, *, dry_run: bool) -> None:
    """Open the stages' network policy to what they talk to in this cluster, and to nothing else.

    Args:
        policy: of the stages; changed in place.
        namespace: of the pods.
        endpoint: `AWS_ENDPOINT_URL`; empty means AWS.
        dry_run: settings that cannot be read count as none.

    Raises:
        UserError: an address is none, or kubectl fails.
    """
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
        note(
            "this cluster has Cilium, which matches no address of a network policy to a node: pods need a policy of its"
            " own kind to reach the control plane (docs/kubeflow.md, Networks)"
        )


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
    try:
        server = kubectl.run("config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}")
    except UserError:  # a kubeconfig without a current context, or none: rendering needs no cluster
        server = ""
    ports = sorted({network_policy.API_PORT, urlsplit(server).port or 443})
    listed = f"port{'s' if len(ports) > 1 else ''} {' and '.join(map(str, ports))}"
    note(f"the network policy leaves {listed} open to any address, for the Kubernetes API: {reason}")
    return [("", port) for port in ports]
