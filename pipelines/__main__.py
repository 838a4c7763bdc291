"""`python -m pipelines <command>`: compile and run the pipelines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 2 user error, 1 a bug.
    """
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("compile", help="compile components and pipelines to YAML")
    command.add_argument("--registry", default="", metavar="HOST/PATH", help="where the cluster pulls the images from")
    command.add_argument("--tag", default="", help="tag of the images (default: the version of landseg)")
    command.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="write the pipelines here, not over the committed files"
    )
    command.add_argument("--check", action="store_true", help="write nothing; fail where a committed file is stale")
    command.set_defaults(function=_compile)

    command = commands.add_parser("run", help="run a pipeline on this machine")
    command.add_argument("pipeline", help="train-and-ensemble, predict, or the path of a compiled pipeline")
    command.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline; repeatable"
    )
    command.add_argument(
        "--root", type=Path, default=Path("build/runs"), metavar="DIR", help="KFP's artifacts (default: %(default)s)"
    )
    command.add_argument("--docker", action="store_true", help="run each step in its image, not as a process")
    command.add_argument("--no-cache", action="store_true", help="run every step, whatever ran before")
    command.set_defaults(function=_run)

    command = commands.add_parser("demo", help="run the whole pipeline on sample data")
    command.add_argument("--root", type=Path, default=Path("build/demo"), metavar="DIR", help="default: %(default)s")
    command.add_argument("--fresh", action="store_true", help="remove what earlier demos left and start over")
    command.add_argument("--docker", action="store_true", help="run each step in its image, not as a process")
    command.set_defaults(function=_demo)

    args = parser.parse_args()
    try:
        return int(args.function(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _compile(args: argparse.Namespace) -> int:
    from pipelines.compile import PIPELINES, compile_text, targets

    if args.check:
        stale = [
            path for path, source in targets().items() if not path.exists() or path.read_text() != compile_text(source)
        ]
        for path in stale:
            print(f"{path} is not what the code compiles to: run `make compile`", file=sys.stderr)
        return 2 if stale else 0
    if args.output_dir is None:
        files = targets()
    else:
        files = {args.output_dir / f"{name}.yaml": pipeline for name, pipeline in PIPELINES.items()}
    for path, source in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(compile_text(source, args.registry, args.tag))
        print(path)
    return 0


def _run(args: argparse.Namespace) -> int:
    from pipelines import local
    from pipelines.compile import PIPELINES, package
    from pipelines.parameters import parse_parameters

    path = package(args.pipeline) if args.pipeline in PIPELINES else Path(args.pipeline)
    try:
        arguments = parse_parameters(path, args.param)
    except (ValueError, OSError) as err:
        print(f"python -m pipelines run: error: {err}", file=sys.stderr)
        return 2
    launcher = local.docker_command([args.root.resolve()]) if args.docker else local.host_command
    try:
        local.run(path, arguments, args.root, launcher=launcher, use_cache=not args.no_cache)
    except local.StageFailedError as err:
        print(f"python -m pipelines run: {err}", file=sys.stderr)
        return 2 if err.status == 2 else 1
    return 0


def _demo(args: argparse.Namespace) -> int:
    from pipelines import demo

    return demo.run(args.root, fresh=args.fresh, docker=args.docker)


if __name__ == "__main__":
    sys.exit(main())
