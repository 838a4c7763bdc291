"""Where each step runs and what it may use; only `resizing.py`, next to it, changes it.

`kfp.local` ignores all of it, and local runs leave out what steps are told of it (pipelines/local/runner.py).
"""

from dataclasses import dataclass
from typing import Any

import yaml
from kfp import kubernetes

from pipelines.dags.step_limits import SCRATCH_VARIABLE

STORAGE_SECRET = "landseg-storage"
"""Secret with the credentials and the endpoint of object storage (manifests/)."""

SERVICE_ACCOUNT = "landseg"
"""Account of the pods, with the rights that they need (manifests/base/service-account.yaml)."""

STORAGE_ENV = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")

STORAGE_ENV_OPTIONAL = ("AWS_SESSION_TOKEN",)
"""Keys that the secret may have: of temporary credentials."""

SETTINGS = "landseg-settings"
"""ConfigMap with the stages' environment variables that are no secrets (manifests/settings.yaml); it may be missing."""

PROXY_ENV = ("HTTPS_PROXY", "HTTP_PROXY")
SETTINGS_ENV = (
    *("LANDSEG_S3_ADDRESSING", "LANDSEG_S3_RETRY_S", "LANDSEG_S3_SSE", "LANDSEG_VERBOSITY"),
    *("LANDSEG_ATTEMPT_PAUSE_S", "AWS_CA_BUNDLE", "SSL_CERT_FILE", *PROXY_ENV, "NO_PROXY"),
)

CA = "landseg-ca"
"""ConfigMap with certificates, mounted at `CA_FOLDER` where it exists; `AWS_CA_BUNDLE` says which file of it counts."""

CA_FOLDER = "/etc/landseg/ca"

POD_LABELS = {"app.kubernetes.io/part-of": "landseg", "app.kubernetes.io/component": "stage"}
"""What the network policy selects the stages' pods by (manifests/base/network-policy.yaml)."""


@dataclass(frozen=True)
class Resources:
    """What a step requests.

    Attributes:
        cpu, memory: requests; memory is also the limit, while CPU may burst to `cpu_limit`.
        gpus: NVIDIA GPUs, all on one node; a task may have a parameter in their place.
        shm: size of /dev/shm, through which DataLoader workers pass batches; it counts against `memory`.
        scratch: size of the local volume at /tmp, the images' $TMPDIR.
        timeout_s: the pod is stopped after this long.
        retries: how often a pod that ended without a result is started again; every stage resumes from what it wrote.
    """

    cpu: str
    cpu_limit: str
    memory: str
    scratch: str
    timeout_s: int
    gpus: int = 0
    shm: str = ""
    retries: int = 2

    @property
    def backoff_max_s(self) -> int:
        """How long after a step's first attempt began Argo may still start or run another.

        Argo counts this from the first attempt's start, ends a retry that is running when it is over, and takes an hour
        where nothing is given: so it holds every attempt at its longest, and a week of waiting for a node.
        """
        return (self.retries + 1) * self.timeout_s + QUEUEING_S


HOUR = 3600
QUEUEING_S = 7 * 24 * HOUR
"""How long the attempts of a step may wait for a node, all of them together."""

PLAN_STAGE = Resources(cpu="1", cpu_limit="2", memory="2Gi", scratch="4Gi", timeout_s=HOUR)
STAGE_DATA = Resources(cpu="4", cpu_limit="8", memory="8Gi", scratch="20Gi", timeout_s=12 * HOUR)
TRAIN = Resources(
    cpu="16", cpu_limit="32", memory="64Gi", scratch="200Gi", timeout_s=72 * HOUR, gpus=2, shm="16Gi", retries=4
)
PLAN_EXPORT = Resources(cpu="1", cpu_limit="2", memory="2Gi", scratch="4Gi", timeout_s=HOUR)
EXPORT_PROBS = Resources(
    cpu="8", cpu_limit="16", memory="32Gi", scratch="200Gi", timeout_s=12 * HOUR, gpus=1, shm="8Gi"
)
# With weights=auto it fits them for all workers, from samples on its scratch volume; else it takes seconds.
PLAN_AVERAGE = Resources(cpu="1", cpu_limit="16", memory="8Gi", scratch="100Gi", timeout_s=12 * HOUR)
AVERAGE_PROBS = Resources(cpu="8", cpu_limit="16", memory="16Gi", scratch="100Gi", timeout_s=12 * HOUR)


def schedule(
    task: Any, resources: Resources, name: str, gpus: Any = None, node_selector: Any = None, tolerations: Any = None
) -> Any:
    """Apply resources and the display name to a task.

    Args:
        task: a task of a container component.
        resources: what it requests.
        name: shown in the DAG view.
        gpus: pipeline parameter (text: KFP resolves no other type here) in place of `resources.gpus`.
        node_selector: pipeline parameter (dict) for steps with GPUs.
        tolerations: pipeline parameter (list) for steps with GPUs.

    Returns:
        The task.
    """
    task.set_display_name(name)
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu_limit)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    task.set_retry(
        resources.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration=f"{resources.backoff_max_s}s"
    )
    if resources.gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(resources.gpus if gpus is None else gpus)
        kubernetes.add_node_selector_json(task, node_selector)
        kubernetes.add_toleration_json(task, tolerations)
    if resources.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=resources.shm)
    kubernetes.empty_dir_mount(task, "scratch", "/tmp", size_limit=resources.scratch)
    # A pod that fills more than its limit is evicted.
    task.set_env_variable(SCRATCH_VARIABLE, str(int(resources.scratch.removesuffix("Gi")) << 30))
    kubernetes.use_secret_as_env(task, STORAGE_SECRET, {name: name for name in STORAGE_ENV})
    kubernetes.use_secret_as_env(task, STORAGE_SECRET, {name: name for name in STORAGE_ENV_OPTIONAL}, optional=True)
    kubernetes.use_config_map_as_env(task, SETTINGS, {name: name for name in SETTINGS_ENV}, optional=True)
    kubernetes.use_config_map_as_volume(task, CA, CA_FOLDER, optional=True)
    kubernetes.set_timeout(task, resources.timeout_s)
    # The user is the image's own, 10001. OpenShift assigns one, so none is asked for here.
    kubernetes.set_security_context(task, run_as_non_root=True)
    for key, value in POD_LABELS.items():
        kubernetes.add_pod_label(task, key, value)
    return task


def with_queue(package: str, queue: str) -> str:
    """Hand the steps with GPUs to a Kueue queue: a label on their pods, which KFP cannot set from a parameter.

    Args:
        package: compiled YAML.
        queue: name of the LocalQueue; empty changes nothing.
    """
    if not queue:
        return package
    spec, platform = yaml.safe_load_all(package)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in spec["deploymentSpec"]["executors"].items():
        if "accelerator" in executor["container"]["resources"]:
            pods[name].setdefault("podMetadata", {}).setdefault("labels", {})["kueue.x-k8s.io/queue-name"] = queue
    return yaml.safe_dump_all([spec, platform], sort_keys=False)
