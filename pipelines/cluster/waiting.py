"""What the steps of a run wait for, from the namespace's pods and workflows, where the kubeconfig may read them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import kubernetes

from pipelines.cluster import client
from pipelines.dags.scheduling import POD_LABELS
from pipelines.timeouts import TIMEOUT_S

_NODES = re.compile(r"0/(\d+) nodes are available: (.*?)(?:\. |\.?$)")
_INSUFFICIENT = re.compile(r"(\d+) Insufficient (\S+)")
_QUOTA = re.compile(
    r"exceeded quota: ([^,]+), requested: requests\.(\S+?)=(\S+), used: \S+?=(\S+), limited: \S+?=(\S+)"
)
_STARTING = ("PodInitializing", "ContainerCreating", None)


class UnreadableError(Exception):
    """The cluster cannot be asked; the message says why."""


class NoClusterError(UnreadableError):
    """There is no kubeconfig."""


def reasons(namespace: str, run_id: str) -> dict[str, str]:
    """Why steps of a run wait.

    Args:
        namespace: of the run.
        run_id: KFP's id of the run.

    Returns:
        Reasons by the number that ends the pods' names.

    Raises:
        UnreadableError: neither pods nor workflows can be read.
    """
    selector = f"pipeline/runid={run_id}"
    found: dict[str, str] = {}
    refused: list[str] = []
    try:
        workflows = _ask(
            lambda api: kubernetes.client.CustomObjectsApi(api).list_namespaced_custom_object(
                *("argoproj.io", "v1alpha1", namespace, "workflows"),
                label_selector=selector,
                _request_timeout=TIMEOUT_S,
            )["items"]
        )
        found |= _of_workflows(workflows)
    except UnreadableError as err:  # who may read pods often may not read workflows; a quota's refusal is only there
        refused.append(str(err))
    try:
        found |= {_number(pod.metadata.name): reason for pod in _pods(namespace, selector) if (reason := _reason(pod))}
    except UnreadableError as err:
        refused.append(str(err))
    if len(refused) == 2:
        raise UnreadableError(refused[-1])
    return found


def stages(namespace: str, storage_uri: str, run_id: str) -> list[str]:
    """The stages of a run whose pods wait, one line each.

    Args:
        namespace: where KFP starts pods.
        storage_uri: of the run.
        run_id: landseg's name of the run. Staging belongs to no run, and is listed for its storage.

    Raises:
        UnreadableError: pods cannot be read.
    """
    lines = []
    for pod in _pods(namespace, ",".join(f"{key}={value}" for key, value in POD_LABELS.items())):
        main = next((one for one in pod.spec.containers if one.name == "main"), None)
        words = [*(main.command or []), *(main.args or [])] if main else []
        asked = _parameters(words)
        same = str(asked.get("storage_uri", "")).rstrip("/") == storage_uri.rstrip("/")
        if same and asked.get("run_id", run_id) == run_id and (reason := _reason(pod)):
            lines.append(f"{_stage(words)}: pending: {reason}")
    return sorted(set(lines))


def _parameters(words: list[str]) -> dict[str, Any]:
    """The parameters in the executor input that KFP's driver hands to its launcher."""
    for flag, value in itertools.pairwise(words):
        if flag == "--executor_input":
            try:
                return dict(json.loads(value)["inputs"]["parameterValues"])
            except (ValueError, KeyError, TypeError):
                break
    return {}


def _stage(words: list[str]) -> str:
    after = words[words.index("landseg") + 1 :] if "landseg" in words else []
    model = after[after.index("--name") + 1 :][:1] if "--name" in after else []
    return " ".join([*after[:1], *model]) or "a step"


def _ask(question: Callable[[Any], Any]) -> Any:
    try:
        with client.quiet():
            kubernetes.config.load_config()
            configuration = kubernetes.client.Configuration.get_default_copy()
            configuration.retries = False  # a cluster out of reach would be waited for four times
            return question(kubernetes.client.ApiClient(configuration))
    except kubernetes.config.ConfigException as err:
        raise NoClusterError("there is no kubeconfig here") from err
    except kubernetes.client.ApiException as err:
        raise UnreadableError(f"the cluster answered {err.status} {err.reason or ''}".strip()) from err
    except Exception as err:  # no kubeconfig, no route, an expired login: each of kubernetes' own kinds
        raise UnreadableError((str(err).splitlines() or [type(err).__name__])[0][:120]) from err


def _pods(namespace: str, selector: str) -> Iterable[Any]:
    found: Iterable[Any] = _ask(
        lambda api: (
            kubernetes.client.CoreV1Api(api)
            .list_namespaced_pod(namespace, label_selector=selector, _request_timeout=TIMEOUT_S)
            .items
        )
    )
    return found


def _number(name: str) -> str:
    return name.rpartition("-")[2]


def _of_workflows(workflows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """What Argo says of nodes whose pods it could not make: a quota's refusal, mostly."""
    nodes = [node for one in workflows for node in ((one.get("status") or {}).get("nodes") or {}).values()]
    return {
        _number(node["id"]): _sentence(node["message"], {})
        for node in nodes
        if node.get("phase") == "Pending" and node.get("type") == "Pod" and node.get("message")
    }


def _reason(pod: Any) -> str:
    if pod.status.phase != "Pending":
        return ""
    for status in pod.status.container_statuses or []:
        if status.state.waiting and status.state.waiting.reason not in _STARTING:
            return f"{status.state.waiting.reason}: {status.state.waiting.message or ''}".strip(": ")
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return _sentence(str(condition.message or condition.reason or ""), _requests(pod))
    return ""


def _requests(pod: Any) -> dict[str, str]:
    """What the stage's own container asks for."""
    main = next((one for one in pod.spec.containers if one.name == "main"), pod.spec.containers[0])
    return dict((main.resources and main.resources.requests) or {})


def _sentence(message: str, requests: dict[str, str]) -> str:
    """A message of the scheduler or of a quota in the words of who waits; others as they are."""
    if quota := _QUOTA.search(message):
        name, resource, asked, used, limit = quota.groups()
        return f"{_amount(resource, asked)}: quota {name} has {used} of {limit} in use"
    listed = _NODES.search(message)
    if not listed:
        return message
    told = []
    for part in listed[2].split(", "):
        insufficient = _INSUFFICIENT.fullmatch(part)
        if insufficient:
            num_nodes, resource = insufficient.groups()
            amount = _amount(resource, requests.get(resource, ""))
            told.append(f"{amount}: insufficient {resource} on {num_nodes} of {listed[1]} nodes")
        else:
            told.append(part)
    return "; ".join(sorted(told, key=lambda text: "insufficient" not in text))


def _amount(resource: str, asked: str) -> str:
    if resource.endswith("/gpu"):
        return f"{asked} GPU{'' if asked == '1' else 's'}".strip()
    if resource == "cpu":
        return f"{asked} CPU{'' if asked == '1' else 's'}".strip()
    return f"{asked} of {resource}" if asked else resource
