"""The training settings of a config, checked before anything is built from them: mmcv takes what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mmcv

from landseg.contracts.errors import ConfigError
from landseg.models.build import losses, parts_with
from landseg.models.foreign import check_test_cfg

_DICTIONARIES = (
    *("data", "runner", "evaluation", "checkpoint_config", "log_config", "fp16"),
    *("optimizer", "optimizer_config", "optimizer_config.grad_clip", "lr_config", "momentum_config"),
)
_WHOLE_NUMBERS = {
    "checkpoint_config.max_keep_ckpts": None,
    "checkpoint_config.interval": None,
    "evaluation.interval": None,
    "evaluation.start": 0,
    "log_config.interval": 1,
    "optimizer_config.cumulative_iters": 1,
}
"""With their minimum. None in their place means the default, as in mmcv; -1 means never or no limit."""
_LISTS = ("custom_hooks", "log_config.hooks")
_CLIPPING = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
"""The arguments of `clip_grad_norm_`."""


def check_settings(config: mmcv.Config) -> None:
    """Refuse settings of a wrong type, which would end training with mmcv's own error, hours later for some.

    Raises:
        ConfigError: a setting is not what mmcv's hooks and landseg expect; the message gives its key.
    """
    for key in _DICTIONARIES:
        _expect(config, key, lambda value: isinstance(value, dict), "a dictionary")
    for key, minimum in _WHOLE_NUMBERS.items():
        least = "" if minimum is None else f", at least {minimum}"
        _expect(config, key, partial(_is_whole, minimum=minimum), f"a whole number{least}")
    for key in _LISTS:
        _expect(config, key, _is_list_of_types, "a list of dictionaries with a `type`")
    _expect(config, "workflow", _is_workflow, "a list of pairs such as ('train', 1)")
    _expect(config, "evaluation.metric", _is_text, "a name or a list of names")
    _check_parts(config.get("model") or {})
    _check_clipping((config.get("optimizer_config") or {}).get("grad_clip"))
    for where in (config, config.get("model") or {}):
        check_test_cfg(where.get("test_cfg"))
    for hook in config.get("custom_hooks") or []:
        if hook.get("resume_from") is not None:  # EMAHook
            raise ConfigError(
                f"custom_hooks {hook['type']}.resume_from",
                "expected None: a run resumes on its own, --resume-from continues an earlier one; found "
                f"{str(hook['resume_from'])[:80]!r}",
                "leave it out; --pretrained starts from the weights of another checkpoint",
            )


def _expect(config: mmcv.Config, key: str, fits: Callable[[Any], bool], what: str) -> None:
    value: Any = config
    for name in key.split("."):
        value = None if value is None else value.get(name)
    if value is not None and not fits(value):
        raise ConfigError(key, f"expected {what}, found {str(value)[:80]!r}", f"write it as {_written(key, what)}")


def _check_parts(model: Any) -> None:
    """Refuse a model whose backbone, heads or losses are no parts, or whose numbers of classes are text."""
    for name in ("backbone", "decode_head"):
        value = model.get(name, {"type": ""})
        parts = value if isinstance(value, list | tuple) and name == "decode_head" else [value]
        if not parts or not _is_list_of_types(parts):
            raise ConfigError(f"model.{name}", f"expected a dictionary with a `type`, found {str(value)[:80]!r}")
    for loss in losses(model):
        if not isinstance(loss, dict):
            raise ConfigError(
                "loss_decode",
                f"expected a dictionary with a `type`, found {str(loss)[:80]!r}",
                "leave it out for mmseg's cross entropy",
            )
    for part in parts_with(model, "num_classes"):
        if isinstance(part["num_classes"], str):
            raise ConfigError("num_classes", f"expected a whole number, found the text {part['num_classes'][:80]!r}")


def _written(key: str, what: str) -> str:
    """An example that --cfg-options takes."""
    if what == "a dictionary":
        return f"{key}.<name>=<value>" + (" for each entry" if "." in key else "")
    return f"{key}=<value>, or leave it out"


def _is_whole(value: Any, minimum: int | None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (minimum is None or value >= minimum)


def _is_list_of_types(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(item, dict) and isinstance(item.get("type"), str) for item in value
    )


def _is_workflow(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, list | tuple) and len(item) == 2 for item in value)


def _is_text(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, str) for item in items)


def _check_clipping(clip: Any) -> None:
    if clip is None:
        return
    norm, kind = clip.get("max_norm"), clip.get("norm_type", 2)
    is_norm = isinstance(norm, int | float) and not isinstance(norm, bool) and norm > 0
    is_kind = kind == "inf" or (isinstance(kind, int | float) and not math.isnan(kind))
    if not is_norm or not is_kind or not clip.keys() <= _CLIPPING:
        raise ConfigError(
            "optimizer_config.grad_clip",
            f"expected max_norm, a number above 0, and norm_type, a number or 'inf', found {dict(clip)}",
            "optimizer_config.grad_clip.max_norm=1",
        )
