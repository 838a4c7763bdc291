"""`python -m pipelines <command>`: compile, run on this machine, prepare a cluster, submit to it, rerun one step."""

from __future__ import annotations

import argparse
import errno
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipelines import naming, output
from pipelines.errors import UserError
from pipelines.options import parser

if TYPE_CHECKING:
    from pipelines.source import Listing


def main() -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 2 user error, 1 a bug or a failed run, 130 interrupted, 143 terminated.
    """
    with output.lasting():
        return _main()


def _main() -> int:
    args = parser(COMMANDS, __doc__ or "").parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        naming.check(args)
        status = int(args.function(args))
        sys.stdout.flush()  # what cannot be written is an error of the command
        return status
    except OSError as err:
        if err.errno not in _REFUSED:
            raise
        where = f"{err.filename}: " if err.filename else ""
        print(f"python -m pipelines {args.command}: error: {where}{(err.strerror or '').lower()}", file=sys.stderr)
        return 2
    except UserError as err:
        print(f"python -m pipelines {args.command}: error: {' '.join(str(err).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as err:
        print("terminated" if isinstance(err, _Terminated) else "interrupted", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(err, _Terminated) else signal.SIGINT)


_REFUSED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.EIO),
}
"""What a file system answers when the machine, or the path that was given, is at fault."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM has arrived: whatever ends on Ctrl-C ends in the same way, the step of a local run first."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _compile(args: argparse.Namespace) -> int:
    from pipelines.dags import sizes
    from pipelines.dags.compile import PIPELINES, compile_text, targets
    from pipelines.dags.resizing import resize
    from pipelines.dags.scheduling import with_queue

    if args.check:
        stale = [
            path for path, item in targets().items() if not path.exists() or path.read_text() != compile_text(item)
        ]
        for path in stale:
            print(f"{path} is not what the code compiles to: run `make compile`", file=sys.stderr)
        return 2 if stale else 0
    if args.output_dir is None:
        if args.registry or args.tag or args.queue or args.sizes or args.set:
            raise UserError(
                "--registry, --tag, --queue, --sizes and --set make YAML for one cluster: give --output-dir too"
            )
        files = targets()
    else:
        files = {args.output_dir / f"{name}.yaml": pipeline for name, pipeline in PIPELINES.items()}
    settings = sizes.read(args.sizes, args.set)
    for path, item in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(resize(with_queue(compile_text(item, args.registry, args.tag), args.queue), settings))
        print(path)
    return 0


def _run(args: argparse.Namespace) -> int:
    from pipelines.arguments import parse_parameters
    from pipelines.dags.packages import names, package
    from pipelines.source import listing, pin_configs

    path = package(args.pipeline) if args.pipeline in names() else Path(args.pipeline)
    arguments = pin_configs(parse_parameters(path, args.param))
    if "source" in arguments and "source_version" not in arguments:
        found = listing(arguments["source"])
        arguments["source_version"] = found.digest if found else ""
    return _run_here(args, path, arguments, use_cache=not args.no_cache)


def _run_here(args: argparse.Namespace, path: Path, arguments: dict[str, object], *, use_cache: bool) -> int:
    from pipelines.local import containers, ending
    from pipelines.local import runner as local
    from pipelines.local.processes import host_command

    places = [str(arguments[name]) for name in ("source", "storage_uri") if name in arguments]
    root = args.root or Path("build/runs")
    folders = [root.resolve(), *(Path(place).resolve() for place in places if "://" not in place)]
    launcher = containers.container_command(folders) if args.docker else host_command
    code = containers.code_in_images(path) if args.docker else ""
    try:
        runs = local.run(path, arguments, root, launcher=launcher, code=code, use_cache=use_cache)
    except local.StageFailedError as err:
        print(f"python -m pipelines {args.command}: {err}", file=sys.stderr)
        return 2 if err.status == 2 else 1
    print("\n".join(ending.lines(runs)))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from pipelines.local import demo

    # A separate folder: in the other demo's, each step would find its result and do nothing.
    root = args.root or Path("build/demo-docker" if args.docker else "build/demo")
    return demo.run(root, fresh=args.fresh, docker=args.docker)


def _submit(args: argparse.Namespace) -> int:
    from pipelines.source import listing

    given = [f"source={args.source}", f"storage_uri={args.storage_uri}", f"run_id={args.run_id}", *args.param]
    found = listing(args.source)
    if not any(pair.startswith("source_version=") for pair in args.param):
        given.append(f"source_version={found.digest if found else ''}")
    return _to_cluster(args, args.pipeline, given, args.run_id, found, use_cache=not args.no_cache)


def _rerun(args: argparse.Namespace) -> int:
    from pipelines.arguments import parse_parameters
    from pipelines.dags.packages import package
    from pipelines.rerun import find_step

    step = find_step(args.step, args.storage_uri, args.run_id, args.param)
    for parameter in step.parameters:
        print(f"  {parameter}", file=sys.stderr)
    if args.endpoint:
        return _to_cluster(args, step.pipeline, step.parameters, f"{args.run_id}: {args.step}", None, use_cache=False)
    path = package(step.pipeline)
    return _run_here(args, path, parse_parameters(path, step.parameters), use_cache=False)


def _deploy(args: argparse.Namespace) -> int:
    from pipelines.cluster import deploy

    options = {"policy": args.network_policy, "pull_secret": args.pull_secret, "gpu_resource": args.gpu_resource}
    deploy.run(args.overlay, args.namespace, **options, force=args.force, dry_run=args.dry_run)
    return 0


def _to_cluster(
    args: argparse.Namespace, pipeline: str, given: list[str], name: str, found: Listing | None, *, use_cache: bool
) -> int:
    from pipelines.arguments import parse_parameters
    from pipelines.cluster import client, submit, watch
    from pipelines.dags import sizes
    from pipelines.dags.packages import names, package, with_images
    from pipelines.dags.resizing import resize
    from pipelines.dags.scheduling import with_queue
    from pipelines.source import pin_configs

    if pipeline not in names():
        raise UserError(f"expected one of {', '.join(names())}, found {pipeline!r}")
    parameters = pin_configs(parse_parameters(package(pipeline), given))
    text = with_queue(with_images(package(pipeline).read_text(), args.registry, args.tag), args.queue)
    text = resize(text, sizes.read(args.sizes, args.set))
    target = submit.Target(client.normalise(args.endpoint), args.namespace, args.service_account)
    text = text if use_cache else without_cache(text)
    submission = submit.submit(target, pipeline, text, parameters, name, listing=found)
    print(submission.link)
    if not args.wait:
        return 0
    state = watch.wait(target, submission.run_id, timeout_s=args.timeout)
    print(f"the run has {state.lower()}", file=sys.stderr)
    if state != "SUCCEEDED":
        return 1
    return _status(args)


def without_cache(package: str) -> str:
    """Compiled YAML whose steps run whether or not KFP has their results."""
    return package.replace("enableCache: true", "enableCache: false")


def _status(args: argparse.Namespace) -> int:
    from pipelines.local.processes import host_command

    command = ["landseg", "status", "--storage-uri", args.storage_uri, "--run-id", args.run_id]
    status = subprocess.run(host_command("", command)).returncode
    if args.storage_uri.startswith("s3://"):
        _tell_waiting(args)
    return status


def _tell_waiting(args: argparse.Namespace) -> None:
    """Which pods of a run wait, and for what; a note where a cluster is there and cannot be asked."""
    from pipelines.cluster import waiting

    namespace = args.namespace or "kubeflow"
    try:
        lines = waiting.stages(namespace, args.storage_uri, args.run_id)
    except waiting.NoClusterError:
        return
    except waiting.UnreadableError as err:
        print(f"note: what steps wait for is not shown: pods in {namespace} cannot be read ({err})", file=sys.stderr)
        return
    if lines:
        print("\n" + "\n".join(lines))


COMMANDS = {
    "compile": _compile,
    "run": _run,
    "demo": _demo,
    "submit": _submit,
    "rerun": _rerun,
    "deploy": _deploy,
    "status": _status,
}
"""What runs each command."""


if __name__ == "__main__":
    sys.exit(main())
