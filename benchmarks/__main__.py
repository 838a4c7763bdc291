"""`python -m benchmarks NAME ...`: run benchmarks; each writes build/bench/NAME.json and prints it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from pathlib import Path

FOLDER = Path("build") / "bench"


def main(arguments: list[str]) -> int:
    """Run the chosen benchmarks, one after another."""
    there = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if "\ndef run(" in path.read_text())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=there, help=", ".join(there))
    parser.add_argument("--repeats", type=int, metavar="N", help="repetitions that medians are taken of, where it says")
    parser.add_argument("--only", metavar="CASE", help="one case of several, e.g. a model, where it says")
    args = parser.parse_args(arguments)
    options = {key: value for key in ("repeats", "only") if (value := getattr(args, key)) is not None}
    runs = {name: importlib.import_module(f"benchmarks.{name}") for name in args.names}
    for name, module in runs.items():
        for key in options.keys() - inspect.signature(module.run).parameters.keys():
            parser.error(f"{name} takes no --{key}")
        if "only" in options and (problem := module.unknown_case(args.only)):
            parser.error(f"{name} --only: {problem}, found {args.only!r}")
    for name, module in runs.items():
        result = module.run(**options)
        FOLDER.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"name": name, **result}, indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
