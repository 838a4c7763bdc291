"""The network policy of the stages' pods, fitted to a cluster: control plane, object storage, proxy.

The manifests hold rules that fit most clusters; here they are replaced by what a cluster really has. A rule matches
the pod that answers, after a Service's address has been replaced: that is when Calico, OVN-Kubernetes, Cilium and AWS'
own network look at packets.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from pipelines.cluster import kubectl
from pipelines.cluster.notes import note
from pipelines.errors import UserError

Rule = dict[str, Any]

STORAGE = "landseg-storage"
"""The Service of storage in the cluster, and the label `app` of its pods."""

API_PORT = 6443
"""The Kubernetes API's port in the manifests."""

ANYWHERE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::/32"]}},
]
"""Any address but link-local ones and those of clouds' metadata services, as the manifests have it too."""

_AWS = "https://s3.amazonaws.com"


def narrow_control_plane(policy: dict[str, Any], control_plane: list[tuple[str, int]]) -> None:
    """Put the control plane's addresses in place of its port.

    Args:
        policy: of the stages; changed in place.
        control_plane: addresses and ports of the Kubernetes API, none where the address is not known.
    """
    rules = [_rule([_block(address)] if address else ANYWHERE, port) for address, port in control_plane]
    _replace(policy, API_PORT, rules)


def open_endpoint(policy: dict[str, Any], endpoint: str, namespace: str) -> None:
    """Open the way to object storage, in place of the rule for AWS where the overlay has one.

    Args:
        policy: of the stages; changed in place.
        endpoint: `AWS_ENDPOINT_URL`; empty means AWS.
        namespace: of the pods.

    Raises:
        UserError: the endpoint is not an address.
    """
    wide = [rule for rule in policy["spec"]["egress"] if _is_wide(rule, 443)]
    if not endpoint and not wide:
        return  # storage in the cluster, whose rule the overlay has
    rules = rules_for(endpoint or _AWS, "AWS_ENDPOINT_URL", namespace)
    if wide:
        _replace(policy, 443, rules)
    else:
        policy["spec"]["egress"] += [rule for rule in rules if rule not in policy["spec"]["egress"]]


def rules_for(url: str, name: str, namespace: str) -> list[Rule]:
    """What a policy must let out so that an address can be reached.

    Args:
        url: the address.
        name: of the setting that it comes from, for the error line.
        namespace: of the pods that reach it: a host without a dot is a Service there.

    Returns:
        Rules by address where the host is one; by pod where it is a Service; else any address, at the port alone, since
        what a name resolves to changes.

    Raises:
        UserError: it is no address.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise UserError(f"{name}: expected http(s)://host or http(s)://host:port, found {_without_user(url)!r}")
    try:
        return [_rule([_block(str(ipaddress.ip_address(host)))], port)]
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    service, place = labels[0], labels[1] if len(labels) > 1 else namespace
    if (service, place) == (STORAGE, namespace):  # which is perhaps about to be made
        return [_rule([{"podSelector": {"matchLabels": {"app": STORAGE}}}], 8333)]
    certain = len(labels) == 1 or labels[2:3] == ["svc"]
    if certain or len(labels) == 2:
        try:
            found = kubectl.get(place, "service", service)
        except UserError as err:
            if certain:
                note(f"the network policy opens all of namespace {place} for {name}: {err}")
                return [{"to": [_namespace(place)]}]
            found = None
        if found is not None:
            return _rules_for_service(found, place, namespace, port)
        if certain:
            raise UserError(f"{name}: there is no service {service} in namespace {place}")
    return [_rule(ANYWHERE, port)]


def _rules_for_service(service: dict[str, Any], place: str, namespace: str, port: int) -> list[Rule]:
    """By the pods behind a Service and the ports at which they listen; by its addresses where it selects none."""
    name, spec = service["metadata"]["name"], service["spec"]
    if spec.get("type") == "ExternalName":
        return [_rule(ANYWHERE, port)]
    wanted = next((one for one in spec.get("ports") or [] if one["port"] == port), {"port": port})
    target = wanted.get("targetPort") or wanted["port"]
    slices = kubectl.endpoint_slices(place, name)
    if spec.get("clusterIP") == "None":  # clients connect to the pods themselves, at the port that they were given
        ports = [port]
    elif isinstance(target, int):
        ports = [target]
    else:
        listed = [one for piece in slices for one in piece.get("ports") or []]
        ports = sorted({one["port"] for one in listed if (one.get("name") or "") == wanted.get("name", "")})
    if not ports:
        problem = f"no pods of service {name} in namespace {place} are there to tell the number of its port {target!r}"
        raise UserError(f"{problem}: start it first")
    if not spec.get("selector"):
        blocks = [_block(address) for address in kubectl.addresses(slices)] or ANYWHERE
        return [_rule(blocks, one) for one in ports]
    pods: Rule = {"podSelector": {"matchLabels": spec["selector"]}}
    return [_rule([pods if place == namespace else _namespace(place) | pods], one) for one in ports]


def _replace(policy: dict[str, Any], port: int, rules: list[Rule]) -> None:
    egress = policy["spec"]["egress"]
    (wide,) = [rule for rule in egress if _is_wide(rule, port)]
    egress.remove(wide)
    egress += rules


def _is_wide(rule: Rule, port: int) -> bool:
    return rule == _rule(ANYWHERE, port)


def _rule(to: list[Rule], port: int) -> Rule:
    return {"to": to, "ports": [{"protocol": "TCP", "port": port}]}


def _block(address: str) -> Rule:
    return {"ipBlock": {"cidr": f"{address}/{128 if ':' in address else 32}"}}


def _namespace(name: str) -> Rule:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _without_user(url: str) -> str:
    return url.rpartition("@")[2]
