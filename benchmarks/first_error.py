"""The first error in a program's output: what follows it is mostly its consequence."""

from __future__ import annotations

import re

_ERRORS = (
    r"^E   +(?P<pytest>\S.*)",
    r"^landseg[\w -]*: error: (?P<landseg>.*)",
    r"^(?P<python>(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*)",
    r"^(?P<fatal>(?:Fatal Python error|Segmentation fault|Aborted|terminate called|.*: No module named).*)",
)
_PATTERN = re.compile("|".join(_ERRORS), re.MULTILINE)


def first_error(output: str) -> str:
    """The first line of a program's output that states an error; where none does, its last line."""
    found = _PATTERN.search(output)
    if found:
        return next(text for text in found.groups() if text).strip()[:300]
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no output"
