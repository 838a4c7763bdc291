"""Prepare a namespace of a cluster: an overlay of `manifests/`, adapted to the namespace and to the cluster."""

from __future__ import annotations

import re
from typing import Any

import yaml

from components.images import ROOT
from pipelines.cluster import kubectl, network_policy
from pipelines.cluster.notes import note
from pipelines.cluster.overlay import (
    LAUNCHER,
    NAMESPACE,
    count_gpus,
    is_landsegs,
    keep_volumes,
    leave_foreign_launcher,
    move,
    use_pull_secret,
)
from pipelines.cluster.surroundings import find_endpoint, fit_policy
from pipelines.errors import UserError

OVERLAYS = ROOT / "manifests" / "overlays"

_CONFLICTS = re.compile(r"Apply failed with \d+ conflicts?: (.*?)(?= Please review)")

_POLICIES = (("NetworkPolicy", "landseg-stages"), ("NetworkPolicy", network_policy.STORAGE))
_LEFT_OVER = (("ResourceQuota", "landseg-gpus"), ("ConfigMap", LAUNCHER))
"""What binds every pod or run in the namespace, so an overlay without it must not leave an earlier one's there."""


def run(
    overlay: str,
    namespace: str,
    *,
    policy: str = "",
    pull_secret: str = "",
    gpu_resource: str = "",
    force: bool = False,
    dry_run: bool = False,
) -> None:
    """Apply an overlay, or print what would be applied.

    Args:
        overlay: its folder's name in `manifests/overlays`.
        namespace: where KFP starts pods.
        policy: `none` leaves the network policies out.
        pull_secret: name of the secret for the registry of the images.
        gpu_resource: what the quota and the queue count in place of `nvidia.com/gpu`, several with commas between.
        force: take over fields of landseg's objects that somebody else has set since.
        dry_run: print the YAML and change nothing; the cluster is only asked what the network policy has to fit.

    Raises:
        UserError: there is no such overlay or no secret in the namespace, or kubectl fails.
    """
    namespace = namespace or NAMESPACE
    known = sorted(path.name for path in OVERLAYS.iterdir())
    if overlay not in known:
        raise UserError(f"OVERLAY: expected one of {', '.join(known)}, found {overlay!r}")
    if policy not in ("", "none"):
        raise UserError(f"NETWORK_POLICY: expected none, or nothing for the overlay's, found {policy!r}")
    endpoint = find_endpoint(namespace, dry_run=dry_run)
    objects = list(yaml.safe_load_all(kubectl.run("kustomize", str(OVERLAYS / overlay))))
    move(objects, namespace)
    use_pull_secret(objects, pull_secret)
    count_gpus(objects, gpu_resource)
    if policy == "none":
        objects = [item for item in objects if item["kind"] != "NetworkPolicy"]
    else:
        (stages,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == _POLICIES[0]]
        fit_policy(stages, namespace, endpoint, dry_run=dry_run)
    if dry_run:
        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
        return
    objects = leave_foreign_launcher(objects, kubectl.get(namespace, "configmap", LAUNCHER))
    objects = keep_volumes(objects, kubectl.get(namespace, "statefulset", network_policy.STORAGE))
    # The secret is in it, so it exists; its labels, such as those of Pod Security, are its administrator's.
    objects = [item for item in objects if item["kind"] != "Namespace"]
    if objects:
        _apply(objects, force=force)
    _remove_replaced(objects, namespace, policies=policy != "none")


def _apply(objects: list[Any], *, force: bool) -> None:
    forced = ("--force-conflicts",) if force else ()
    apply = ("apply", "--server-side", "--field-manager=landseg", *forced, "--filename", "-")
    text = yaml.safe_dump_all(objects, sort_keys=False)
    try:
        kubectl.run(*apply, "--dry-run=server", text=text)
    except UserError as err:
        conflicts = _conflicts(objects, apply) if "conflict" in str(err) else []
        raise UserError(f"{'; '.join(conflicts) or err} (nothing was changed)") from err
    print(kubectl.run(*apply, text=text), end="")


def _conflicts(objects: list[Any], apply: tuple[str, ...]) -> list[str]:
    """Which fields of which objects are somebody else's: kubectl tells the fields, and not of what."""
    found = []
    for item in objects:
        try:
            kubectl.run(*apply, "--dry-run=server", text=yaml.safe_dump(item))
        except UserError as err:
            if fields := _CONFLICTS.search(str(err)):
                found.append(f"{item['kind']} {item['metadata']['name']}: {fields[1]}")
    if found:
        found[-1] += ": give the manifests the same values, or take these over with FORCE=1"
    return found


def _remove_replaced(objects: list[Any], namespace: str, *, policies: bool) -> None:
    """Remove what an earlier overlay has left and what would still bind; a note where that is refused."""
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for kind, name in _LEFT_OVER if policies else (*_LEFT_OVER, *_POLICIES):
        found = None if (kind, name) in there else kubectl.get(namespace, kind.lower(), name)
        if found is None or not is_landsegs(found):
            continue
        try:
            print(kubectl.run("delete", kind.lower(), name, "--namespace", namespace), end="")
        except UserError as err:
            note(f"{kind} {name} of an earlier overlay still holds: {err}")
