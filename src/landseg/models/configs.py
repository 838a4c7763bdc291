"""mmsegmentation 0.x configs: loaded with their bases and options.

A config file is Python that mmcv executes: use only files you trust, as with a script. The text of a config in a
manifest or a checkpoint is data from elsewhere and is therefore parsed, never executed.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import yaml

from landseg.contracts.documents import short_repr
from landseg.contracts.errors import ConfigError
from landseg.models.config_files import local_config
from landseg.models.config_text import check_version, other_version

# mmcv reads YAML with a loader that builds any object; what it writes itself holds tuples, and nothing that runs.
mmcv.fileio.handlers.yaml_handler.Loader = yaml.FullLoader

FOLLOWS = "from_dataset"
"""Entry of a config that comes from a file: which of its numbers are only examples, to be replaced by the dataset's."""
STRAY = "stray_pipelines"
"""Entry of a config that comes from a file: names of pipelines that an option or the file sets without effect."""
WITHOUT_EFFECT = "options_without_effect"
"""Entry of a config that comes from a file: options outside of what is read; whether the file has such a variable."""
_READ = {
    *("model", "train_cfg", "test_cfg", "data", "train_pipeline", "test_pipeline", "pretrained", "num_classes"),
    *("optimizer", "optimizer_config", "lr_config", "momentum_config", "runner", "total_epochs", "total_iters"),
    *("evaluation", "checkpoint_config", "log_config", "log_level", "workflow", "fp16", "cudnn_benchmark"),
    *("custom_hooks", "custom_imports", "find_unused_parameters", "load_from", "resume_from", "auto_resume"),
    *("work_dir", "gpu_ids", "device", "seed", "deterministic", "dist_params", "auto_scale_lr", "mp_start_method"),
    *("opencv_num_threads", "dataset_type", "data_root"),
}
"""Entries of a config that mmseg's tools or landseg read, and two that the staged dataset replaces."""
_PIPELINES = {"train_pipeline": "train", "test_pipeline": "test"}
_EXAMPLES = {"num_classes": r".*num_classes", "in_channels": r"model\.backbone\..*in_channels"}


def load_config(ref: str, options: Mapping[str, Any] | None = None) -> mmcv.Config:
    """Load a config with its bases.

    The result is marked to take the dataset's numbers of classes and bands, unless an option sets one
    (:func:`landseg.models.build.fit_config`).

    Args:
        ref: name of a bundled or stock config, or a config file's path, s3:// or http(s):// address. A fragment (`#…`)
            appended to it only serves KFP's cache, which knows a config by its address: it changes with the file.
        options: overrides by dotted key, as mmseg's `--cfg-options`: `{"optimizer.lr": 0.02}`.

    Raises:
        ConfigError: there is no such config, it does not load, or it is not one of mmsegmentation 0.x.
    """
    ref, options = ref.partition("#")[0], dict(options or {})
    with local_config(ref) as path:
        try:
            config = mmcv.Config.fromfile(str(path))
            stray = [name for name in _PIPELINES if _is_stray(config, name)]
            variables = {*config}
        except (Exception, SystemExit) as err:  # a config is code, which may raise anything
            _drop_frames(err)
            raise _unloadable(ref, err) from err
    _merge(config, options)
    check_version(config, ref)
    stray += [name for name in _PIPELINES if name not in stray and any(key.startswith(name) for key in options)]
    config[STRAY] = [name for name in stray if _is_stray(config, name)]
    heads = {option: option.partition(".")[0] for option in options}
    config[WITHOUT_EFFECT] = {option: head in variables for option, head in heads.items() if head not in _READ}
    config[FOLLOWS] = [
        name for name, key in _EXAMPLES.items() if not any(re.fullmatch(key, asked) for asked in options)
    ]
    return config


def _merge(config: mmcv.Config, options: Mapping[str, Any]) -> None:
    """Override a config's values.

    Raises:
        ConfigError: an option leads nowhere in this config.
    """
    try:
        config.merge_from_dict(dict(options))
    except Exception as err:  # of mmcv, about values of any type
        _drop_frames(err)
        line = str(err.args[0] if err.args else err).partition("\n")[0]
        problem = f"the config cannot take {', '.join(options)}: {type(err).__name__}: {line[:200]}"
        raise ConfigError("--cfg-options", problem, "give paths of entries that it has") from err


def _unloadable(ref: str, err: BaseException) -> ConfigError:
    """The error to raise where a config file cannot be run; mmcv's own about `custom_imports` says nothing."""
    cause = err.__context__ if isinstance(err, ImportError) and not str(err) and err.__context__ else err
    if isinstance(cause, ImportError) and (cause.name or "").partition(".")[0] == "mmengine":
        return other_version(ref)
    hint = "put the folder that holds it into PYTHONPATH, or leave it out" if isinstance(cause, ImportError) else ""
    return ConfigError(ref, f"the config does not load: {type(cause).__name__}: {cause}", hint)


def _is_stray(config: mmcv.Config, name: str) -> bool:
    """Whether a config has a pipeline of this name, and `data` has another one, which is used."""
    data = config.get("data")
    dataset = data.get(_PIPELINES[name]) if isinstance(data, dict) else None
    used = []  # that of the dataset, and those of what is wrapped around it
    while isinstance(dataset, dict):
        if dataset.get("pipeline") is not None:
            used.append(dataset["pipeline"])
        dataset = dataset.get("dataset")
    return bool(used) and name in config and config[name] not in used


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` pairs as mmseg's `--cfg-options` does: `optimizer.lr=0.02 model.backbone.depths=[2,2]`.

    An object of JSON stands for as many pairs, `{"optimizer.lr": 0.02}`: so a pipeline hands on its parameter.

    Raises:
        ConfigError: a pair has no `=`, or its brackets do not match; JSON is malformed.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        if pair.lstrip().startswith("{"):
            options |= _json_options(pair)
            continue
        key, separator, value = pair.partition("=")
        if not separator:
            raise ConfigError("--cfg-options", f"expected key=value, found {pair!r}")
        _check_key(key)
        try:
            options[key] = mmcv.DictAction._parse_iterable(value)
        except AssertionError as err:
            raise ConfigError("--cfg-options", f"the brackets of {pair!r} do not match") from err
    return options


def _json_options(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as err:
        problem = f"expected key=value pairs or one JSON object, found {short_repr(text)}: {err}"
        raise ConfigError("--cfg-options", problem) from err
    options: dict[str, Any] = found  # what begins with a brace is an object
    for key in options:
        _check_key(key)
    return options


def _check_key(key: str) -> None:
    if not all(re.fullmatch(r"\S+", part) for part in key.split(".")):
        raise ConfigError("--cfg-options", f"expected names with dots between, such as optimizer.lr, found {key!r}")


def import_modules(config: mmcv.Config) -> None:
    """Import the `custom_imports` of a config that the caller trusts; parsing imports nothing.

    Raises:
        ConfigError: a module cannot be imported.
    """
    for name in modules_to_import(config):
        try:
            importlib.import_module(name)
        except Exception as err:  # a module is code, which may raise anything
            if not (isinstance(err, ImportError) and config.custom_imports.get("allow_failed_imports")):
                raise ConfigError(f"custom_imports {name}", f"cannot be imported: {err}") from err


def modules_to_import(config: mmcv.Config) -> list[str]:
    """The modules that a config's `custom_imports` lists.

    Raises:
        ConfigError: the entry is malformed.
    """
    custom = config.get("custom_imports") or {}
    names = custom.get("imports") or [] if isinstance(custom, dict) else custom
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError("custom_imports", f"expected dict(imports=[names of modules]), found {str(custom)[:80]}")
    return list(names)


def _drop_frames(err: BaseException) -> None:
    """Let go of what a failed load holds, without noise.

    mmcv leaves its temporary file to the garbage collector, which remarks on stderr that the file's folder is gone.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda remark: None
    try:
        traceback.clear_frames(err.__traceback__)
    finally:
        sys.unraisablehook = hook
