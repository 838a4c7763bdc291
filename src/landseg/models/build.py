"""Models: built from a config for a dataset, and loaded from what training published."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import mmcv
import torch
from mmseg.models import build_segmentor

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError, ContractError, LandsegError
from landseg.models.config_text import parse_config
from landseg.models.configs import FOLLOWS, STRAY, WITHOUT_EFFECT, load_config, parse_options
from landseg.models.foreign import BoundedTensors, closed_to_files_and_addresses, reduce_for_prediction
from landseg.models.weights.checkpoint import read_checkpoint, without_averages, without_common_prefix

__all__ = ["build_model", "fit_config", "load_config", "load_model", "load_state", "parse_config", "parse_options"]

IGNORED = 255
"""The label of pixels that are neither trained on nor scored, in every staged dataset."""
_OTHER_CLASSES = {"STDCHead"}
"""Heads whose classes are not the dataset's: STDC's detail head tells edges from the rest."""


def fit_config(config: mmcv.Config, schema: ClassSchema) -> mmcv.Config:
    """A copy of the config, fitted to a dataset's classes and bands: what training records as the resolved config.

    A config file's numbers are for another dataset, and this one's replace them. A number that an option asked for, or
    that a trained model has, is refused where it differs.

    Raises:
        ConfigError: the config's number of classes or input bands is not the dataset's, or its class weights are text,
            which mmseg would take for the path or address of a file.
    """
    fitted = copy.deepcopy(config)
    follows = fitted.pop(FOLLOWS, [])
    for mark in (STRAY, WITHOUT_EFFECT):
        fitted.pop(mark, None)
    _refuse_files(fitted)
    for part in parts_with(fitted.model, "ignore_index"):
        part["ignore_index"] = IGNORED
    if "num_classes" in follows and "num_classes" in fitted:
        fitted.num_classes = schema.num_classes
    for path, part in _class_layers(fitted.model):
        if part.get("out_channels") == 1 and schema.num_classes != 2:
            raise ConfigError(
                f"{path}.out_channels",
                f"expected one channel per class: the dataset has {schema.num_classes}, and a single channel tells two "
                "apart",
                "leave out_channels and use_sigmoid out of the head",
            )
        if "num_classes" in follows:
            _set_classes(part, schema.num_classes)
        elif part.num_classes != schema.num_classes:
            options = " ".join(f"{key}.num_classes={schema.num_classes}" for key, _ in _class_layers(fitted.model))
            raise ConfigError(
                f"{path}.num_classes",
                f"the config has {part.num_classes} classes, the dataset has {schema.num_classes}",
                f"--cfg-options {options}",
            )
    bands = len(schema.bands)
    for path, part in _input_layers(fitted.model):
        # 3 is the default of every backbone in mmseg
        if "in_channels" in follows and part.get("in_channels", 3) != bands:
            part.in_channels = bands
        elif part.get("in_channels", 3) != bands:
            raise ConfigError(
                f"{path}.in_channels",
                f"the config has {part.get('in_channels', 3)} input bands, the dataset has {bands}",
                f"--cfg-options {path}.in_channels={bands}",
            )
    return fitted


def build_model(config: mmcv.Config, schema: ClassSchema) -> torch.nn.Module:
    """Build a model for a dataset; its weights are as the layers' constructors leave them.

    SyncBN becomes BN where there is no process group on GPUs: it cannot run there, and for one process BN is the same.

    Raises:
        ConfigError: the config does not fit the dataset (:func:`fit_config`), or mmseg cannot build it.
    """
    fitted = fit_config(config, schema)
    if not _on_gpu_group():
        _replace_sync_bn(fitted._cfg_dict)
    try:
        with warnings.catch_warnings():
            # What the recipe intends: a loss averaged over all pixels, a softmax over two classes too. The threshold
            # of a single channel is not used.
            warnings.filterwarnings("ignore", "Default ``avg_non_ignore`` is False", UserWarning)
            warnings.filterwarnings("ignore", "For binary segmentation, we suggest", UserWarning)
            warnings.filterwarnings("ignore", "threshold is not defined for binary", UserWarning)
            model: Any = build_segmentor(
                fitted.model, train_cfg=fitted.get("train_cfg"), test_cfg=fitted.get("test_cfg")
            )
    except LandsegError:
        raise
    except Exception as err:  # constructors of many kinds, which a config gives any arguments
        raise ConfigError("model", f"mmseg cannot build it: {type(err).__name__}: {_short(err)}", _advice(err)) from err
    model.CLASSES = list(schema.classes)
    model.PALETTE = [list(colour) for colour in schema.palette]
    return cast(torch.nn.Module, model)


def load_model(
    config: mmcv.Config,
    schema: ClassSchema,
    checkpoint: Path,
    trusted: Sequence[str] = (),
    *,
    name: object = None,
) -> torch.nn.Module:
    """A trained model, in evaluation mode, on the CPU; config and checkpoint may come from anywhere.

    Args:
        config: parsed, not run.
        schema: the dataset's.
        checkpoint: a local file.
        trusted: modules besides OpenMMLab's that may be imported for the types they register.
        name: what messages call the checkpoint: a URI where it is a copy.

    Raises:
        ConfigError: the config names types that are not allowed, or mmseg cannot build it.
        ContractError: the checkpoint's weights are not those of the config's model.
    """
    _refuse_files(config)
    reduced = reduce_for_prediction(config, trusted)
    state = without_averages(read_checkpoint(checkpoint, name)["state_dict"])
    if not any(".auxiliary_head." in f".{key}" for key in state):
        reduced.model.pop("auxiliary_head", None)  # some take it out of what they publish; predicting does without
    try:
        with closed_to_files_and_addresses(), BoundedTensors(state):
            model = build_model(reduced, schema)
    except LandsegError:
        raise
    except Exception as err:  # parts of types that fitting to the dataset does not expect
        raise ConfigError("model", f"mmseg cannot build it: {type(err).__name__}: {_short(err)}") from err
    expected = model.state_dict()
    state = without_common_prefix(state, {*expected})
    # Losses may have buffers; they are not built. Converters leave out how many batches were seen: nothing needs it.
    state = {key: value for key, value in state.items() if key in expected or ".loss_" not in key}
    state |= {key: expected[key] for key in expected if key.endswith(".num_batches_tracked") and key not in state}
    load_state(model, state, name or checkpoint)
    return model.eval()


def load_state(model: torch.nn.Module, state: dict[str, torch.Tensor], where: object) -> None:
    """Load weights that must be the model's exactly.

    Raises:
        ContractError: weights are missing, unexpected, or of another shape; the first few are listed.
    """
    expected = model.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} {list(state[key].shape)} for {list(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:3])}" for kind, keys in problems.items() if keys)
        raise ContractError(where, f"expected the weights of the config's model, found {listed}")
    model.load_state_dict(state)


def _refuse_files(config: mmcv.Config) -> None:
    """Refuse class weights that are text: mmseg would take it for the path or address of a file, and load that."""
    for loss in losses(config.model):
        if isinstance(loss, dict) and isinstance(weights := loss.get("class_weight"), str):
            raise ConfigError(
                "loss_decode.class_weight",
                f"expected a list of numbers, found the text {weights!r}",
                "write the numbers into the config, or let --class-weights compute them",
            )


def _advice(err: Exception) -> str:
    if "unexpected keyword argument" in str(err):
        return "it may be misspelt, or come from a base config: _delete_=True in the dictionary leaves those out"
    if "is not in the" in str(err) and "registry" in str(err):
        return "for a part of your own, custom_imports lists its module"
    if "has no attribute 'parent'" in str(err):  # of mmcv's registries
        return "a type is of a package that is not imported (as mmdet.ResNet is): custom_imports lists its modules"
    return ""


def _short(err: Exception) -> str:
    return str(err).partition("\n")[0][:300]


def _set_classes(part: Any, number: int) -> None:
    """Set the number of classes; class weights for another number of classes are removed."""
    for loss in losses(part):
        weights = loss.get("class_weight")
        if isinstance(weights, list | tuple) and len(weights) == part.num_classes != number:
            loss.pop("class_weight")
    # Of a head: one channel per class. 1 is a head with a sigmoid; any other number is of features, as in K-Net.
    if part.get("out_channels") == part.num_classes != 1:
        part.out_channels = number
    part.num_classes = number


def ignored_indices(config: mmcv.Config) -> set[Any]:
    """Values of `ignore_index` in a model's heads and losses that differ from the dataset's."""
    return {str(part["ignore_index"]) for part in parts_with(config.model, "ignore_index")} - {str(IGNORED)}


def parts_with(node: Any, key: str) -> Iterator[Any]:
    """The parts of a config that have an entry."""
    if isinstance(node, dict) and key in node:
        yield node
    if isinstance(node, dict | list | tuple):
        for item in node.values() if isinstance(node, dict) else node:
            yield from parts_with(item, key)


def losses(node: Any) -> Iterator[Any]:
    """The configs of all losses over the dataset's classes."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from losses(item)
    elif isinstance(node, dict) and node.get("type") not in _OTHER_CLASSES:
        for key, value in node.items():
            if key == "loss_decode":
                yield from value if isinstance(value, list | tuple) else [value]
            else:
                yield from losses(value)


def num_classes(config: mmcv.Config) -> list[int]:
    """The distinct numbers of classes that a config's heads have."""
    return sorted({int(part.num_classes) for _, part in _class_layers(config.model)})


def _class_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Every part of the heads that has `num_classes`, with its path; heads may be lists and may contain other heads."""
    for name in ("decode_head", "auxiliary_head"):
        yield from _with_num_classes(f"model.{name}", model.get(name))


def _input_layers(model: Any) -> list[tuple[str, Any]]:
    """The parts of the backbone that read the image; a backbone may contain another one and branches of its own."""
    path, backbone = "model.backbone", model.get("backbone", {})
    inner = (f"{path}.backbone_cfg", backbone.get("backbone_cfg"))
    parts = [(path, backbone), inner] if isinstance(inner[1], dict) else [(path, backbone)]
    return [part for part in parts if "in_channels" in part[1]] or parts[:1]


def _with_num_classes(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _with_num_classes(f"{path}.{index}", item)
    elif isinstance(node, dict) and node.get("type") not in _OTHER_CLASSES:
        if isinstance(node.get("num_classes"), int):
            yield path, node
        for key, value in node.items():
            yield from _with_num_classes(f"{path}.{key}", value)


def _on_gpu_group() -> bool:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    # The backend of a group may be a list: "cpu:gloo,cuda:nccl".
    backend = distributed.get_backend()
    return "nccl" in backend or "cuda:" in backend


def _replace_sync_bn(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") in {"SyncBN", "MMSyncBN"}:
            node["type"] = "BN"
        for value in node.values():
            _replace_sync_bn(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _replace_sync_bn(value)
