"""Following a run: each step once per change, by its own name, with the time and what it waits for."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable

from kfp_server_api import V2beta1PipelineTaskDetail as Task

from pipelines.cluster import client, waiting
from pipelines.cluster.submit import Target
from pipelines.errors import UserError

_FINAL = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
_MAX_MISSED_POLLS = 10
_PLUMBING = re.compile(r"root|.*-driver(\(\d+\))?|executor(\(\d+\))?")
"""What Argo runs around a step: KFP's drivers, and the containers below the step that it is about."""
_EXECUTOR = re.compile(r"executor(\(\d+\))?")


def wait(target: Target, run_id: str, *, timeout_s: float, poll_s: float = 10.0) -> str:
    """Follow a run to its end and print each change of a step's state.

    Returns:
        The run's final state: SUCCEEDED, FAILED, CANCELED or SKIPPED.

    Raises:
        UserError: it has not ended in time, or the server has stopped answering.
    """
    connection = client.connect(target.endpoint, client.credentials(target.endpoint), target.namespace)
    deadline = time.monotonic() + timeout_s
    seen: dict[str, str] = {}
    reasons = _Reasons(target.namespace or "kubeflow", run_id)
    missed = 0
    while time.monotonic() < deadline:
        try:
            with client.explained(target.endpoint), client.quiet():
                run = connection.get_run(run_id)
            missed = 0
        except UserError:  # a rolling restart of KFP is no reason to give up
            missed += 1
            if missed == _MAX_MISSED_POLLS:
                raise
            time.sleep(poll_s)
            continue
        tasks = (run.run_details.task_details if run.run_details else None) or []
        for name, state in reasons.added_to(step_states(tasks)).items():
            if seen.get(name) != state:
                seen[name] = state
                _say(f"{time.strftime('%H:%M:%SZ', time.gmtime())} {name}: {state}")
        if run.state in _FINAL:
            return str(run.state)
        time.sleep(poll_s)
    raise UserError(
        f"the run has not ended after {timeout_s:.0f} s and continues: {target.endpoint}/#/runs/details/{run_id}"
    )


def step_states(tasks: Iterable[Task]) -> dict[str, tuple[str, str]]:
    """The steps of a run among the tasks that KFP lists, which are the nodes of Argo's workflow.

    Args:
        tasks: of the run.

    Returns:
        By the step's name (numbered where several have the same, as an export's workers do): its state in lower case,
        and the number that ends its pod's name.
    """
    listed = [task for task in tasks if task.display_name and task.state]
    parents = _parents(listed)
    executors: dict[str, Task] = {}
    for task in listed:
        if _EXECUTOR.fullmatch(task.display_name):
            executors[_step_of(task, parents).task_id] = task  # the newest attempt is listed last
    with_children = {parent.task_id for parent in parents.values()}
    found: dict[str, tuple[str, str]] = {}
    for task in listed:
        inner = executors.get(task.task_id)
        if _PLUMBING.fullmatch(task.display_name) or (inner is None and task.task_id in with_children):
            continue  # a group of steps, or what belongs to a step
        shown = task if inner is None or task.state in _FINAL else inner
        number = sum(name.partition(" #")[0] == task.display_name for name in found)
        name = f"{task.display_name} #{number + 1}" if number else task.display_name
        found[name] = shown.state.lower(), str(shown.pod_name or "").rpartition("-")[2]
    return found


def _parents(tasks: list[Task]) -> dict[str, Task]:
    """By task id: the task above it. KFP gives the parent's id or the children's pods, depending on its release."""
    by_id = {task.task_id: task for task in tasks}
    by_pod = {task.pod_name: task for task in tasks if task.pod_name}
    parents: dict[str, Task] = {}
    for task in tasks:
        for child in task.child_tasks or []:
            below = by_id.get(child.task_id) or by_pod.get(child.pod_name)
            if below is not None:
                parents.setdefault(below.task_id, task)
        if task.parent_task_id in by_id:
            parents[task.task_id] = by_id[task.parent_task_id]
    return parents


def _step_of(task: Task, parents: dict[str, Task]) -> Task:
    for _ in range(len(parents)):
        above = parents.get(task.task_id)
        if above is None or not _PLUMBING.fullmatch(task.display_name):
            break
        task = above
    return task


class _Reasons:
    """Why steps wait: asked for only while one does, and given up with a note where the cluster may not be asked."""

    def __init__(self, namespace: str, run_id: str) -> None:
        self._namespace, self._run_id = namespace, run_id
        self._readable = True

    def added_to(self, states: dict[str, tuple[str, str]]) -> dict[str, str]:
        """The states by step, those that wait with what they wait for."""
        pending = any(state == "pending" for state, _ in states.values())
        reasons: dict[str, str] = {}
        if pending and self._readable:
            try:
                reasons = waiting.reasons(self._namespace, self._run_id)
            except waiting.UnreadableError as err:
                self._readable = False
                _say(f"note: what steps wait for is not shown: pods in {self._namespace} cannot be read ({err})")
        return {
            name: f"{state}: {reasons[pod]}" if state == "pending" and pod in reasons else state
            for name, (state, pod) in states.items()
        }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
