"""Whom a NetworkPolicy lets pods reach: the semantics of networking.k8s.io/v1.

Ports and addresses are those of the final destination, and an `ipBlock` is for what is no pod: that is how Calico,
OVN-Kubernetes and AWS' own network see packets.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a connection goes, or comes from.

    Attributes:
        address: of a machine; empty for a pod.
        namespace: of a pod.
        labels: of a pod.
    """

    address: str = ""
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def lets_out(policy: dict[str, Any], place: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether a policy's pods may connect to a place."""
    own = policy["metadata"]["namespace"]
    return any(_allows(rule, "to", place, port, protocol, own) for rule in policy["spec"]["egress"])


def lets_in(policy: dict[str, Any], place: Place, port: int) -> bool:
    """Whether a place may connect to a policy's pods."""
    own = policy["metadata"]["namespace"]
    return any(_allows(rule, "from", place, port, "TCP", own) for rule in policy["spec"]["ingress"])


def _allows(rule: dict[str, Any], side: str, place: Place, port: int, protocol: str, own: str) -> bool:
    ports = rule.get("ports")
    if ports and not any((one["port"], one.get("protocol", "TCP")) == (port, protocol) for one in ports):
        return False
    return any(_matches(peer, place, own) for peer in rule.get(side) or [{"ipBlock": {"cidr": "0.0.0.0/0"}}])


def _matches(peer: dict[str, Any], place: Place, own: str) -> bool:
    if "ipBlock" in peer:
        return bool(place.address) and _holds(peer["ipBlock"], ipaddress.ip_address(place.address))
    if place.address:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": place.namespace}):
            return False
    elif place.namespace != own:
        return False
    return _selects(peer.get("podSelector", {}), place.labels)


def _holds(block: dict[str, Any], address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    excluded = [ipaddress.ip_network(one) for one in block.get("except", [])]
    return address in ipaddress.ip_network(block["cidr"]) and not any(address in one for one in excluded)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
