"""An overlay's objects, adapted to a namespace and to what the cluster has already."""

from __future__ import annotations

import re
from typing import Any

from pipelines.cluster.notes import note
from pipelines.errors import UserError

NAMESPACE = "kubeflow"
"""The namespace that the manifests are written for."""

LAUNCHER = "kfp-launcher"
"""KFP's ConfigMap with the place of its artifacts; its name cannot be chosen."""

_PART_OF = "app.kubernetes.io/part-of"

_GPU = "nvidia.com/gpu"
"""What quota and queue count in the manifests."""


def leave_foreign_launcher(objects: list[Any], existing: dict[str, Any] | None) -> list[Any]:
    """Leave out KFP's settings where they are somebody else's: they hold for every run in the namespace.

    Args:
        objects: of an overlay.
        existing: the ConfigMap in the cluster.
    """
    has_launcher = any((item["kind"], item["metadata"]["name"]) == ("ConfigMap", LAUNCHER) for item in objects)
    if not has_launcher or existing is None or is_landsegs(existing):
        return objects
    note(
        f"the ConfigMap {LAUNCHER} is not landseg's and stays as it is: KFP keeps reports and references where"
        " it says; for landseg's bucket, merge into it what `make deploy … DRY_RUN=1` prints"
    )
    return [item for item in objects if (item["kind"], item["metadata"]["name"]) != ("ConfigMap", LAUNCHER)]


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
                note(f"storage keeps its volume of {sizes[1][0]}, not {sizes[0][0]}")
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
        if item["metadata"].get("namespace") == NAMESPACE:
            item["metadata"]["namespace"] = namespace
        if item["kind"] == "Namespace":
            item["metadata"]["name"] = namespace
        for subject in item.get("subjects", []):
            subject["namespace"] = namespace
        if item["metadata"]["name"] == LAUNCHER:
            providers = item["data"]["providers"]
            item["data"]["providers"] = providers.replace(f".{NAMESPACE}.svc", f".{namespace}.svc")


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


def count_gpus(objects: list[Any], resources: str) -> None:
    """Have quota and queue count other resources than NVIDIA's GPUs, with the same number of each.

    Args:
        objects: of an overlay; changed in place.
        resources: names such as `amd.com/gpu` or `nvidia.com/mig-3g.40gb`, separated by commas; empty changes nothing.

    Raises:
        UserError: one is no name of a resource.
    """
    names = [name.strip() for name in resources.split(",") if name.strip()]
    for name in names:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
            raise UserError(f"GPU_RESOURCE: expected a resource such as amd.com/gpu, found {name!r}")
    for item in objects if names else ():
        if item["kind"] == "ResourceQuota":
            number = item["spec"]["hard"].pop(f"requests.{_GPU}")
            item["spec"]["hard"] |= {f"requests.{name}": number for name in names}
        if item["kind"] == "ClusterQueue":
            for group in item["spec"]["resourceGroups"]:
                group["coveredResources"] = [one for one in group["coveredResources"] if one != _GPU] + names
                for flavor in group["flavors"]:
                    (gpu,) = [one for one in flavor["resources"] if one["name"] == _GPU]
                    flavor["resources"].remove(gpu)
                    flavor["resources"] += [{**gpu, "name": name} for name in names]


def is_landsegs(item: dict[str, Any]) -> bool:
    """Whether an object of a cluster came from landseg's manifests."""
    return bool(item["metadata"].get("labels", {}).get(_PART_OF) == "landseg")
