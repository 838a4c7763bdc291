"""`python -m benchmarks.gpu.steps NAME`: one step of the check, which leaves its figures in NAME.json."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.gpu import exporting, resuming, teams, training
from benchmarks.gpu.plan import MODELS, Plan, landseg

Figures = dict[str, Any]


def versions(plan: Plan) -> Figures:
    """What runs here; fails where there is no GPU to check."""
    found: Figures = {**machine.describe(), "cuda": torch.version.cuda, "machine": platform.machine()}
    if plan.on_gpu:
        properties = torch.cuda.get_device_properties(plan.device)
        found |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
            "driver": _driver(),
        }
    return found


def _driver() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def data(plan: Plan) -> Figures:
    """Draw and stage the tiles that later steps use."""
    for name, size, counts in (
        ("large", plan.size_px, plan.num_tiles),
        ("small", 64, {"train": 16, "val": 4}),
    ):
        root = plan.folder / "data" / name
        numbers = [text for split, count in counts.items() for text in (f"--{split}", str(count))]
        landseg("make-sample-data", str(root / "raw"), *numbers, "--test", "0", "--size", str(size))
        where = ["--storage-uri", str(root / "store"), "--output-dir", str(root)]
        landseg("stage-data", "--source", str(root / "raw"), *where)
    return {"size_px": plan.size_px, **plan.num_tiles}


def tests(plan: Plan) -> Figures:
    """The tests marked gpu."""
    if importlib.util.find_spec("pytest") is None:
        return {"passed": 0, "note": "pytest is not installed here"}
    marked = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    if not marked:
        raise RuntimeError("no test is marked gpu")
    arguments = ["-m", "gpu", "-p", "no:cacheprovider", "--tb=short", *marked]
    output = ""
    with subprocess.Popen([sys.executable, "-m", "pytest", *arguments], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:  # to the log as it comes: the step may be ended
            print(line, end="", flush=True)
            output += line
    if running.returncode:
        raise SystemExit(running.returncode)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped)", output)}
    if plan.on_gpu and (counts.get("skipped") or not counts.get("passed")):
        raise RuntimeError(f"expected every test marked gpu to run here, found {counts}")
    return {"files": len(marked), **counts}


STEPS: dict[str, Callable[[Plan], Figures]] = {
    "versions": versions,
    "data": data,
    "tests": tests,
    "resume": resuming.resume,
    "two-processes": teams.two_processes,
    "nccl": teams.one_process_group,
}
for _model in MODELS:
    STEPS[f"step-{_model}"] = functools.partial(training.step_alone, model=_model)
    STEPS[f"train-{_model}"] = functools.partial(training.train, model=_model)
    STEPS[f"export-{_model}"] = functools.partial(exporting.compare, model=_model)


def main(arguments: list[str]) -> None:
    """Run a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("RuntimeError: torch sees no GPU here; `--device cpu` rehearses the check without one")
    figures = STEPS[args.name](Plan(args.device == "cuda", args.folder))
    (args.folder / f"{args.name}.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
