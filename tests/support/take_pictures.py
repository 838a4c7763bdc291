"""Pictures of an ensemble report for the README: `python tests/support/take_pictures.py REPORT.html docs/images`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import Browser
from PIL import Image

WIDTH_PX = 1120
MAX_BYTES = 300_000
_NUM_TILES = 3


def main(report: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, Browser(Path(scratch)) as browser:
        browser.show(report.resolve(), WIDTH_PX)

        def top(selector: str) -> int:
            return round(browser.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().top"))

        tiles = top("#disagreement")
        after = top(f"#disagreement .tile:nth-of-type({_NUM_TILES + 1})")
        stretches = {"report": (0, top("#confusions")), "report-tiles": (tiles - 20, after)}
        for name, (start, end) in stretches.items():
            path = folder / f"{name}.png"
            browser.screenshot(path, top=start, height=end - start)
            Image.open(path).convert("RGB").save(path, optimize=True)
            size = path.stat().st_size
            print(f"{path}: {size:,} bytes")
            assert size <= MAX_BYTES, f"{path} is larger than {MAX_BYTES:,} bytes"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
