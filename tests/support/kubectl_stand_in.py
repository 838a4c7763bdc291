"""In place of kubectl: builds overlays as the real one does, answers for a cluster, keeps what it is asked to apply."""

from __future__ import annotations

import base64
import functools
import itertools
import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster import kubectl
from pipelines.errors import UserError

KUBECTL = str(Path(sysconfig.get_path("scripts")) / "kubectl")


@functools.cache
def kustomize(folder: str) -> str:
    """What the real kubectl builds."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def slices(addresses: list[str], port: int, name: str = "") -> list[Any]:
    """The endpoint slices of a Service."""
    return [{"endpoints": [{"addresses": [one]} for one in addresses], "ports": [{"name": name, "port": port}]}]


class Cluster:
    """What kubectl answers for.

    Attributes:
        calls: the arguments and the standard input of each call.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        endpoint: str | None = "",
        objects: dict[str, Any] | None = None,
        *,
        refuses: str = "",
        forbidden: tuple[str, ...] = (),
        cilium: bool = False,
    ) -> None:
        """Take kubectl's place.

        Args:
            monkeypatch: pytest's.
            endpoint: `AWS_ENDPOINT_URL` in the secret of namespace `team`; None for no secret.
            objects: by `kind namespace/name`.
            refuses: why the API server refuses what is applied.
            forbidden: objects that may not be read.
            cilium: whether the cluster has it.
        """
        self.calls: list[tuple[tuple[str, ...], str | None]] = []
        self._objects: dict[str, Any] = {"endpointslices default/kubernetes": slices(["10.1.0.1", "10.1.0.2"], 443)}
        if endpoint is not None:
            data = {"AWS_ENDPOINT_URL": base64.b64encode(endpoint.encode()).decode()}
            self._objects["secret team/landseg-storage"] = {"metadata": {"name": "landseg-storage"}, "data": data}
        self._objects |= objects or {}
        self._refuses, self._forbidden, self._cilium = refuses, forbidden, cilium
        monkeypatch.setattr(kubectl, "run", self._run)

    def arguments(self, verb: str) -> list[tuple[str, ...]]:
        """The arguments of each call of a verb."""
        return [arguments for arguments, _ in self.calls if arguments[0] == verb]

    def applied(self) -> list[Any]:
        """What was applied, after a dry run of the same."""
        (tried, text), (done, same) = [call for call in self.calls if call[0][0] == "apply"]
        assert tried == (*done, "--dry-run=server")
        assert "--field-manager=landseg" in done
        assert text == same
        return list(yaml.safe_load_all(text or ""))

    def _run(self, *arguments: str, text: str | None = None) -> str:
        self.calls.append((arguments, text))
        match arguments[0]:
            case "kustomize":
                return kustomize(arguments[1])
            case "apply" if self._refuses and "--dry-run=server" in arguments:
                raise UserError(self._refuses)
            case "config":
                return "https://203.0.113.1:8443"
            case "api-resources":
                return "ciliumnetworkpolicies.cilium.io\n" if self._cilium else ""
            case "get":
                return self._get(arguments)
        return ""

    def _get(self, arguments: tuple[str, ...]) -> str:
        options = dict(itertools.pairwise(arguments))
        kind, name = arguments[1], options.get("--selector", "").partition("=")[2] or arguments[2]
        where = f"{kind} {options['--namespace']}/{name}"
        if where in self._forbidden:
            raise UserError(f"kubectl get: Error from server (Forbidden): {kind} is forbidden")
        found = self._objects.get(where)
        if kind == "endpointslices":
            return json.dumps({"items": found or []})
        return json.dumps(found) if found else ""
