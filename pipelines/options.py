"""The options of `python -m pipelines`, command by command."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Command = Callable[[argparse.Namespace], int]
"""Runs one command; returns its exit status."""


def parser(functions: Mapping[str, Command], description: str) -> argparse.ArgumentParser:
    """The parser of the command line; the arguments that it returns have the command's function as `function`.

    Args:
        functions: by the name of the command.
        description: of the whole, in its help.
    """
    whole = argparse.ArgumentParser(prog="python -m pipelines", description=description, allow_abbrev=False)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    images = argparse.ArgumentParser(add_help=False)
    images.add_argument("--registry", default="", metavar="HOST/PATH", help="where the cluster pulls the images from")
    images.add_argument("--tag", default="", help="tag of the images (default: the version of landseg)")
    images.add_argument("--queue", default="", metavar="NAME", help="Kueue LocalQueue for the steps with GPUs")
    images.add_argument("--sizes", default="", metavar="FILE", help="what steps request: a TOML file, or an overlay")
    images.add_argument(
        "--set", action="append", default=[], metavar="STEP.NAME=VALUE", help="one size, e.g. train.memory=48Gi"
    )

    parameters = argparse.ArgumentParser(add_help=False)
    parameters.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline; repeatable"
    )

    here = argparse.ArgumentParser(add_help=False)
    here.add_argument(
        "--root", type=Path, metavar="DIR", help="KFP's artifacts (default: build/runs, build/demo, build/demo-docker)"
    )
    here.add_argument("--docker", action="store_true", help="run each step in its image, not as a process")

    cluster = argparse.ArgumentParser(add_help=False)
    cluster.add_argument(
        "--endpoint", default=os.environ.get("KF_PIPELINES_ENDPOINT", ""), metavar="URL", help="address of KFP"
    )
    cluster.add_argument("--namespace", default="", help="your profile's in a multi-user Kubeflow, else KFP's")
    cluster.add_argument(
        "--service-account", default="", metavar="NAME", help="account of the pods (default: landseg, if there is one)"
    )
    cluster.add_argument("--wait", action="store_true", help="follow the run to its end, then print the scores")
    cluster.add_argument("--timeout", type=_seconds, default=4 * 24 * 3600.0, metavar="S", help="how long --wait waits")

    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("--storage-uri", required=True, metavar="URI", help="root in object storage")

    def add(name: str, help_text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, parents=parents, allow_abbrev=False)
        command.set_defaults(function=functions[name])
        return command

    command = add("compile", "compile components and pipelines to YAML", images)
    command.add_argument("--output-dir", type=Path, metavar="DIR", help="write the pipelines here, not where committed")
    command.add_argument("--check", action="store_true", help="write nothing; fail if a committed file is stale")

    command = add("run", "run a pipeline on this machine", parameters, here)
    command.add_argument("pipeline", help="train-and-ensemble, predict, a step, or the path of a compiled pipeline")
    command.add_argument("--no-cache", action="store_true", help="run every step, ignoring earlier results")

    command = add("demo", "run the whole pipeline on sample data", here)
    command.add_argument("--fresh", action="store_true", help="delete what earlier demos left and start over")

    command = add("submit", "submit a pipeline to a cluster", run, parameters, images, cluster)
    command.add_argument("pipeline", nargs="?", default="train-and-ensemble", help="default: %(default)s")
    command.add_argument("--source", required=True, metavar="URI", help="raw tiles, as the pods see them")
    command.add_argument("--run-id", default=time.strftime("%Y%m%d-%H%M%S"), metavar="ID", help="default: the time")
    command.add_argument("--no-cache", action="store_true", help="run every step, ignoring earlier results")

    command = add("rerun", "run one step of an earlier run again", run, parameters, images, cluster, here)
    command.add_argument("step", help="stage-data, train-<model>, export-probs-<model> or average-probs")
    command.add_argument("--run-id", required=True, metavar="ID", help="the earlier run")

    command = add("deploy", "prepare a namespace of a cluster, with kubectl")
    command.add_argument("overlay", help="a folder of manifests/overlays")
    command.add_argument("--namespace", default="", help="where KFP starts pods (default: kubeflow)")
    command.add_argument("--network-policy", default="", metavar="none", help="none: leave the network policies out")
    command.add_argument(
        "--pull-secret", default="", metavar="NAME", help="secret of the registry, for storage and the account"
    )
    command.add_argument(
        "--gpu-resource",
        default="",
        metavar="NAME",
        help="GPU resource that quota and queue count (default: nvidia.com/gpu)",
    )
    command.add_argument(
        "--force", action="store_true", help="take over what somebody else has set in landseg's objects"
    )
    command.add_argument("--dry-run", action="store_true", help="print what would be applied")

    command = add("status", "show a run's progress, from object storage, and what its pods wait for", run)
    command.add_argument("--run-id", required=True, metavar="ID", help="the run")
    command.add_argument("--namespace", default="", help="where KFP starts pods (default: kubeflow)")
    return whole


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text!r}")
