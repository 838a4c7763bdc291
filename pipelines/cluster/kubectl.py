"""kubectl, as far as deploying needs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from pipelines.errors import UserError


def run(*arguments: str, text: str | None = None) -> str:
    """Run kubectl.

    Args:
        arguments: of kubectl.
        text: for its standard input.

    Returns:
        What it prints.

    Raises:
        UserError: it fails; with its message as a whole, since the end of it says what was refused.
    """
    found = shutil.which("kubectl") or str(Path(sysconfig.get_path("scripts")) / "kubectl")
    done = subprocess.run([found, *arguments], input=text, capture_output=True, text=True)
    if done.returncode:
        # Its log repeats the reason once per try, in lines of klog's form; they count where there is nothing else.
        lines = [line for line in done.stderr.splitlines() if not re.match(r"[EWI][0-9]{4} ", line)]
        raise UserError(f"kubectl {arguments[0]}: {' '.join(' '.join(lines).split() or done.stderr.split())}")
    return done.stdout


def get(namespace: str, kind: str, name: str) -> dict[str, Any] | None:
    """An object of the cluster; None where it does not exist."""
    text = run("get", kind, name, "--namespace", namespace, "--ignore-not-found", "--output", "json")
    return dict(json.loads(text)) if text.strip() else None


def endpoint_slices(namespace: str, service: str) -> list[dict[str, Any]]:
    """Which addresses and ports answer for a Service."""
    text = run(
        *("get", "endpointslices", "--namespace", namespace, "--output", "json"),
        *("--selector", f"kubernetes.io/service-name={service}"),
    )
    return list(json.loads(text)["items"]) if text.strip() else []


def addresses(slices: list[dict[str, Any]]) -> list[str]:
    """The addresses in endpoint slices."""
    return sorted({ip for piece in slices for one in piece.get("endpoints") or [] for ip in one["addresses"]})
