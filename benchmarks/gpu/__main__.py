"""`python -m benchmarks.gpu`: run every step, each in a process of its own; write check-gpu.json and check-gpu.md.

A step that fails does not end the check: its first error is shown, and those that do not build on it go on. The status
is 1 if any failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.first_error import first_error
from benchmarks.gpu import table
from benchmarks.processes import descendants

FOLDER = Path("build") / "bench" / "gpu"
TOTAL_S = 355.0
"""Of the whole check on a GPU."""
STEPS = {
    "versions": 60,
    "data": 60,
    "tests": 90,
    "step-swin": 60,
    "step-resnest": 60,
    "train-swin": 75,
    "train-resnest": 75,
    "export-swin": 60,
    "export-resnest": 60,
    "resume": 90,
    "two-processes": 60,
    "nccl": 45,
}
"""The steps in their order, and the seconds that each may take."""
REHEARSAL_FACTOR = 5
"""How much longer a step may take where a CPU rehearses it."""


def main(arguments: list[str]) -> int:
    """Run the check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses every step on the tiny twins"
    )
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help="default: %(default)s")
    args = parser.parse_args(arguments)
    names = [name for name in STEPS if not args.only or name in args.only]
    if not args.only:
        shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    factor = 1 if args.device == "cuda" else REHEARSAL_FACTOR
    deadline = time.monotonic() + TOTAL_S * factor
    results = {}
    for name in names:
        limit = min(STEPS[name] * factor, deadline - time.monotonic())
        result = _run(name, args.device, args.folder, limit)
        results[name] = result
        outcome = "ok" if result["ok"] else f"FAILED: {result['error']}"
        print(f"{name:14} {result['seconds']:6.1f} s  {outcome}", file=sys.stderr, flush=True)
    found = {"name": "check-gpu", "device": args.device, "ok": all(one["ok"] for one in results.values())}
    found |= {"seconds": round(sum(one["seconds"] for one in results.values()), 1), "steps": results}
    (args.folder / "check-gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    text = table.markdown(found)
    (args.folder / "check-gpu.md").write_text(text)
    print(text)
    print(f"{args.folder / 'check-gpu.json'} and check-gpu.md next to it", file=sys.stderr)
    return int(not found["ok"])


def _run(name: str, device: str, folder: Path, limit_s: float) -> dict[str, Any]:
    """One step.

    Returns:
        `ok`, `seconds`; `figures` where it succeeded, else `error` and `log`.
    """
    if limit_s <= 0:
        return {"ok": False, "seconds": 0.0, "error": "the check's time was over before this step", "log": ""}
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.steps", name, "--device", device, "--folder", str(folder)]
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=_environment()
        )
        try:
            status: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # also what the step has started, some of it in sessions of its own
            for pid in [*descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            process.wait()
    seconds = round(time.monotonic() - start, 1)
    if status == 0 and result.exists():
        return {"ok": True, "seconds": seconds, "figures": json.loads(result.read_text())}
    error = first_error(log.read_text(errors="replace"))
    if status is None:
        error = f"not finished after {limit_s:.0f} s; its output so far: {error}"
    result.unlink(missing_ok=True)
    return {"ok": False, "seconds": seconds, "error": error, "log": str(log)}


def _environment() -> dict[str, str]:
    paths = [str(Path.cwd() / "src"), str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
