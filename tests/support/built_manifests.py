"""The overlays as kustomize builds them, and schemas of the custom resources in them."""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubectl_stand_in import kustomize

from components.images import ROOT

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
CLUSTER_SCOPED = {"Namespace", "ClusterQueue", "ResourceFlavor"}

NAME = {
    "type": "string",
    "maxLength": 253,
    "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
QUANTITY = {"type": ["integer", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"}


def strict(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    properties = {**required, **optional}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def several(items: Any, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def kueue_object(kind: str, **spec: Any) -> dict[str, Any]:
    version = {"const": "kueue.x-k8s.io/v1beta2"}  # of Kueue 0.15 and newer; 0.20 serves no other
    return strict({"apiVersion": version, "kind": {"const": kind}, "metadata": {"type": "object"}, **spec})


SELECTOR = strict({}, matchLabels={"type": "object", "additionalProperties": {"type": "string"}})
GROUP = strict(
    {
        "coveredResources": several({"type": "string"}, 64),
        "flavors": several(
            strict(
                {"name": NAME, "resources": several(strict({"name": {"type": "string"}, "nominalQuota": QUANTITY}), 64)}
            ),
            64,
        ),
    }
)
KUEUE = {  # Kueue's custom resources, as far as the manifests use them: Kubernetes has no schemas for them
    "ResourceFlavor": kueue_object("ResourceFlavor"),
    "LocalQueue": kueue_object("LocalQueue", spec=strict({"clusterQueue": NAME})),
    "ClusterQueue": kueue_object(
        "ClusterQueue",
        spec=strict(
            {"resourceGroups": several(GROUP, 16)},
            namespaceSelector=SELECTOR,
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
        ),
    ),
}


BUILT = {overlay: list(yaml.safe_load_all(kustomize(str(MANIFESTS / "overlays" / overlay)))) for overlay in OVERLAYS}


def find(overlay: str, kind: str, name: str) -> Any:
    (found,) = [item for item in BUILT[overlay] if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def validate(item: Any, version: str) -> None:
    """Validate an object strictly against the schemas of a release of Kubernetes."""
    if item["kind"] in KUEUE:
        jsonschema.validate(item, KUEUE[item["kind"]])
    else:
        kubernetes_validate.validate(item, version, strict=True)
