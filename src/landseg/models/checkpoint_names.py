"""What a checkpoint's model is called where nobody names it: after its backbone. Needs neither torch nor mmcv.

A checkpoint's file name gives the epoch, not the model; the backbone does: swin, resnest, resnetv1c.
"""

from __future__ import annotations

import ast
import io
import re
from typing import IO, Any, cast

from landseg import storage
from landseg.contracts.errors import LandsegError, ObjectNotFoundError
from landseg.models.weights.archive import START, open_archive
from landseg.models.weights.torch_pickle import read_pickle
from landseg.raw.sources.ranged import RangedFile

_MAX_TEXT = 1 << 20


def backbone_name(kind: object) -> str:
    """A model's name from the type of its backbone."""
    name = str(kind).lower().removesuffix("transformer")
    return re.sub(r"[^a-z0-9]+", "-", name)[:63].strip("-") or "model"


def checkpoint_name(uri: str) -> str | None:
    """The name of a checkpoint's model, of which only the description is read, not the weights.

    Returns:
        None where it cannot be told: export-probs will say why.

    Raises:
        ObjectNotFoundError: there is no such checkpoint.
        StorageError: it cannot be read.
    """
    found = storage.stat(uri)
    if found is None:
        raise ObjectNotFoundError(uri, "no such checkpoint")
    file = cast(IO[bytes], RangedFile(uri, found.size_bytes))
    if file.read(len(START)) != START:
        return None
    try:
        archive, folder = open_archive(file, found.size_bytes)
        meta = read_pickle(io.BytesIO(archive.read(f"{folder}data.pkl")))["meta"]
        kind = _backbone(meta["config"])
    except LandsegError:
        raise
    except Exception:  # damaged, or of another kind
        return None
    return None if kind is None else backbone_name(kind)


def _backbone(text: str) -> Any:
    """The type of the backbone in a config's text, which is not run; None where there is none."""
    if len(text) > _MAX_TEXT:
        return None
    models = [node.value for node in ast.parse(text).body if isinstance(node, ast.Assign) and _is_model(node)]
    kind = _entry(_entry(models[-1], "backbone"), "type") if models else None
    return kind.value if isinstance(kind, ast.Constant) else None


def _is_model(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "model" for target in node.targets)


def _entry(node: ast.expr | None, key: str) -> ast.expr | None:
    """The value of a key in `dict(key=...)` or `{"key": ...}`."""
    if isinstance(node, ast.Call):
        return next((one.value for one in node.keywords if one.arg == key), None)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return next((value for name, value in pairs if isinstance(name, ast.Constant) and name.value == key), None)
    return None
