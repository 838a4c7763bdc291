"""What the results of one stage under one name differ in: each set of parameters has a folder of its own."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from landseg import storage
from landseg.contracts.documents import parse_json
from landseg.contracts.errors import ContractError, ObjectNotFoundError, masked
from landseg.contracts.references import ARGUMENTS
from landseg.stages.shared.context import IDENTITY

_log = logging.getLogger(__name__)

_CODE = {"landseg", "code", "stage"}
"""Written by :meth:`StageContext.folder` with what the stage gives as its identity."""
_BEFORE_WORK = {IDENTITY, ARGUMENTS, "order.json"}
"""Written before anything is computed, so that they are what a refused attempt leaves."""
_OTHER_CODE = "another version of landseg's code"
_MAX_WIDTH = 110
_MAX_LINES = 4
"""Of a config that are shown; the rest are counted."""


def identity_of(folder: str) -> dict[str, Any]:
    """What decided the result in a stage's folder; empty where that is not recorded, or the record is damaged."""
    uri = storage.join(folder, IDENTITY)
    try:
        found = parse_json(storage.get_bytes(uri), uri)
    except (ObjectNotFoundError, ContractError):
        return {}
    return found if isinstance(found, dict) else {}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What two identities differ in, as `key value there, value here`, `other` being the one there.

    Configs are compared line by line. The code is mentioned only where nothing else differs.
    """
    return _differing(one, other) or [_OTHER_CODE]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    found = []
    for key in dict.fromkeys([*one, *other]):
        here, there = one.get(key), other.get(key)
        if here == there or key in _CODE:
            continue
        if key == "config" and isinstance(here, str) and isinstance(there, str):
            found += _config_lines(here, there)
        elif isinstance(here, Mapping) and isinstance(there, Mapping):
            found += _differing(here, there)
        else:
            found.append(f"{key} {_shown(there)} there, {_shown(here)} here")
    return found


def report_others(
    what: str,
    folder: str,
    identity: Mapping[str, Any],
    advice: str,
    is_meant: Callable[[Mapping[str, Any]], bool] = lambda other: True,
) -> None:
    """Log a warning for the newest other result of the same name that may be meant, with what it differs in.

    One that holds work goes before one that was refused as soon as it had begun.

    Called when work begins in a folder: those who change a parameter, or take another landseg, and expect it to resume
    learn at once that it starts anew.

    Args:
        what: the result, for the message, e.g. "a training of swin".
        folder: the stage's folder, `…/<name>/<identity>`.
        identity: what decides the result in it.
        advice: what to do if another result was meant.
        is_meant: whether the result of another identity may be meant at all.
    """
    parent = storage.parent(folder)
    newest: dict[str, float] = {}
    holding_work = set()
    for info in storage.each_object(parent):
        name, _, path = info.uri.removeprefix(parent).strip("/").partition("/")
        newest[name] = max(info.modified_s, newest.get(name, 0.0))
        if path not in _BEFORE_WORK:
            holding_work.add(name)
    newest.pop(folder.rpartition("/")[2], None)
    for name in sorted(newest, key=lambda name: (name in holding_work, newest[name]), reverse=True):
        where = storage.join(parent, name)
        other = identity_of(where)
        if other and is_meant(other):
            break
    else:
        return
    finished = storage.stat(storage.join(where, "manifest.json")) is not None
    mine = json.loads(json.dumps(masked(dict(identity))))  # as it is recorded
    _log.warning(
        "the run has %s already (%s, %s), which is not resumed: %s. %s",
        what,
        where,
        "finished" if finished else "unfinished",
        "; ".join(differences(mine, other)),
        advice,
    )


def _config_lines(here: str, there: str) -> list[str]:
    changed = [
        f"config {line[0]}{_shown(line[1:].strip())}"
        for line in difflib.unified_diff(there.splitlines(), here.splitlines(), n=0, lineterm="")
        if line[:1] in {"-", "+"} and not line.startswith(("---", "+++"))
    ]
    more = len(changed) - _MAX_LINES
    return changed[:_MAX_LINES] + ([f"{more} more lines of the config"] if more > 0 else [])


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _MAX_WIDTH else f"{text[:_MAX_WIDTH]}…"
