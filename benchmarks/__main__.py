"""`python -m benchmarks NAME ...`: run benchmarks; each writes build/bench/NAME.json and prints it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

FOLDER = Path("build") / "bench"


def main(names: list[str]) -> int:
    """Run the named benchmarks, one after another."""
    there = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if "\ndef run(" in path.read_text())
    if not names or not set(names) <= set(there):
        print(f"usage: python -m benchmarks NAME ...\n\nNAME: {', '.join(there)}", file=sys.stderr)
        return 2
    for name in names:
        result = importlib.import_module(f"benchmarks.{name}").run()
        FOLDER.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"name": name, **result}, indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
