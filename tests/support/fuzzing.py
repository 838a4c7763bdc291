"""Broken documents for property tests: valid JSON with one part replaced, removed or added, and damaged bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 10**400, float("nan"), float("inf"), -0.0, 1e308])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "..", "../shards/..", "/etc/passwd", "a/../../b", "s3://x/y", "a\\b", "\0", "\ud800", "x" * 3000]
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _parents(node: Any) -> list[Any]:
    """All objects and arrays in a JSON value."""
    if not isinstance(node, dict | list) or not node:
        return []
    children = node.values() if isinstance(node, dict) else node
    return [node, *(found for child in children for found in _parents(child))]


@st.composite
def broken_json(draw: st.DrawFn, valid: Any) -> bytes:
    """A valid JSON object with up to three parts replaced, removed or added."""
    document = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        parents = _parents(document)
        if not parents:
            break
        parent = draw(st.sampled_from(range(len(parents))))
        node = parents[parent]
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        action = draw(st.sampled_from(["replace", "remove", "add", "double"]))
        if action == "replace":
            node[key] = draw(JSON)
        elif action == "remove":
            del node[key]
        elif isinstance(node, dict):
            node[draw(st.text(max_size=8))] = draw(JSON)
        else:
            node.append(copy.deepcopy(node[key]) if action == "double" else draw(JSON))
    return json.dumps(document).encode()


@st.composite
def broken_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes with a piece overwritten, cut out, doubled or cut off."""
    start = draw(st.integers(0, len(valid) - 1))
    end = draw(st.integers(start, min(len(valid), start + 40)))
    action = draw(st.sampled_from(["overwrite", "cut", "double", "end"]))
    if action == "overwrite":
        return valid[:start] + draw(st.binary(max_size=20)) + valid[end:]
    if action == "cut":
        return valid[:start] + valid[end:]
    return valid[:start] if action == "end" else valid[:end] + valid[start:]
