"""Settings of names that nobody reads: mmcv takes any entry, so a misspelt one silently has no effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import mmcv

from landseg.models.configs import WITHOUT_EFFECT

_KNOWN = {
    "runner": {"type", "max_epochs", "max_iters"},
    "evaluation": {
        *("type", "interval", "start", "by_epoch", "metric", "pre_eval", "save_best", "rule", "greater_keys"),
        *("less_keys", "out_dir", "file_client_args", "efficient_test", "priority", "gpu_collect", "tmpdir"),
        *("broadcast_bn_buffer", "dynamic_intervals", "test_fn"),
    },
    "checkpoint_config": {
        *("type", "interval", "by_epoch", "max_keep_ckpts", "save_last", "save_optimizer", "out_dir", "sync_buffer"),
        *("file_client_args", "create_symlink", "filename_tmpl", "meta", "priority"),
    },
    "log_config": {"interval", "hooks", "by_epoch"},
    "optimizer_config": {
        *("type", "grad_clip", "detect_anomalous_params", "cumulative_iters", "loss_scale", "distributed"),
        *("coalesce", "bucket_size_mb"),
    },
    "data": {
        *("samples_per_gpu", "workers_per_gpu", "train", "val", "test", "train_dataloader", "val_dataloader"),
        *("test_dataloader", "shuffle", "drop_last", "pin_memory", "persistent_workers", "prefetch_factor"),
    },
}
"""The entries that mmseg, mmcv or landseg reads."""
_MEANT = {"optimizer_config.paramwise_cfg": "optimizer.paramwise_cfg"}
"""Names that belong elsewhere; early documentation of mmsegmentation had this one there."""


def misspelt_settings(config: mmcv.Config) -> Iterator[str]:
    """One sentence for each entry that has no effect because of its name.

    Args:
        config: as :func:`landseg.models.configs.load_config` returns it.
    """
    for name, known in _KNOWN.items():
        for entry in sorted({*(config.get(name) or {})} - known):
            meant = _MEANT.get(f"{name}.{entry}")
            hint = f" (did you mean {meant}?)" if meant else _near(entry, known, f"{name}.")
            yield f"{name}.{entry} is not used: there is no such setting{hint}"
    without_effect = config.get(WITHOUT_EFFECT, {})
    others = {*config} - {option.partition(".")[0] for option in without_effect}
    for option, is_variable in without_effect.items():
        yield (
            f"--cfg-options {option} has no effect: the config file has used this variable by then; give the entries "
            "that it was used for, e.g. model.backbone.norm_cfg.type for norm_cfg.type"
            if is_variable
            else f"--cfg-options {option} has no effect: there is no such setting{_near(option, others)}"
        )


def _near(name: str, known: set[str], prefix: str = "") -> str:
    head, dot, rest = name.partition(".")
    found = difflib.get_close_matches(head, known, 1)
    return f" (did you mean {prefix}{found[0]}{dot}{rest}?)" if found else ""
