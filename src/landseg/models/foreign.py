"""Configs from elsewhere, built for predicting without running what they name.

A checkpoint or manifest may come from anywhere, and mmseg reads files and addresses that a config names: class weights
of losses, initial weights. So what predicting does not need is taken out, what is left may name only types that
landseg, mmcls, mmcv, mmseg and torch register, and while the model is built, files and addresses are closed to it and
its size is bounded.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import math
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import mmcv
import torch
from mmcv.cnn.bricks import registry as layers
from mmcv.fileio.file_client import FileClient
from mmseg.models.builder import ATTENTION, MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from landseg.contracts.errors import ConfigError
from landseg.models.configs import modules_to_import

if importlib.util.find_spec("mmcls"):  # mmsegmentation brings it; a machine for a check of GPUs may lack it
    importlib.import_module("mmcls.models")  # registers its backbones, which configs name as `mmcls.ConvNeXt`

TRUSTED_PACKAGES = ("landseg", "mmcls", "mmcv", "mmseg", "torch")
"""Whose types a config from elsewhere may name."""

_TRAINING_KEY = re.compile(r"pretrained|init_cfg|train_cfg|sampler|loss_.*|checkpoint.*")
_REGISTRIES = (
    MODELS,
    ATTENTION,
    layers.CONV_LAYERS,
    layers.NORM_LAYERS,
    layers.ACTIVATION_LAYERS,
    layers.PADDING_LAYERS,
    layers.UPSAMPLE_LAYERS,
    layers.PLUGIN_LAYERS,
    layers.DROPOUT_LAYERS,
    layers.POSITIONAL_ENCODING,
    layers.ATTENTION,
    layers.FEEDFORWARD_NETWORK,
    layers.TRANSFORMER_LAYER,
    layers.TRANSFORMER_LAYER_SEQUENCE,
)
_REFUSED_TYPES = {"TIMMBackbone", "HuggingFace"}
"""Fetch what they build from, by their own means."""
_MAX_CROP = 1 << 14
_MIN_CROP = 16
_MAX_OVERLAPPING = 16
"""Windows side by side over one pixel: more would compute for days."""
_MAX_STEPS, _MAX_STEP_FACTOR = 8, 4.0
"""Of PointRend's refinement, each of which enlarges the map by the factor."""


def reduce_for_prediction(config: mmcv.Config, trusted: Sequence[str] = ()) -> mmcv.Config:
    """A copy of a config with what predicting needs: the model without losses and initialisation, the test pipeline.

    Args:
        config: parsed, not run.
        trusted: modules that the caller trusts, besides those of OpenMMLab; they are imported, and no others.

    Raises:
        ConfigError: the model names a type that is not allowed, or `test_cfg` or `custom_imports` is malformed.
    """
    for name in trusted:
        try:
            importlib.import_module(name)
        except Exception as err:  # a module is code, which may raise anything
            raise ConfigError(f"--trust-modules {name}", f"cannot be imported: {type(err).__name__}: {err}") from err
    imports = modules_to_import(config)
    reduced = {
        key: copy.deepcopy(config.get(key)) for key in ("model", "test_cfg", "data", "test_pipeline") if key in config
    }
    data = reduced.get("data")
    reduced["data"] = {"test": data.get("test")} if isinstance(data, dict) else {}
    reduced["model"] = _without_training(reduced["model"])
    _check_types("model", reduced["model"], (*TRUSTED_PACKAGES, *trusted), imports)
    for where in (reduced, reduced["model"]):
        check_test_cfg(where.get("test_cfg"))
    return mmcv.Config(reduced)


def _without_training(node: Any) -> Any:
    if isinstance(node, list | tuple):
        return type(node)(_without_training(item) for item in node)
    if not isinstance(node, dict):
        return node
    return {key: _without_training(value) for key, value in node.items() if not _TRAINING_KEY.fullmatch(str(key))}


def _check_types(path: str, node: Any, packages: Sequence[str], imports: Sequence[str]) -> None:
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            _check_types(f"{path}.{index}", item, packages, imports)
    elif isinstance(node, dict):
        if "type" in node and not _is_allowed(node["type"], packages):
            raise ConfigError(
                f"{path}.type",
                f"expected a type that {', '.join(TRUSTED_PACKAGES[:-1])} or torch registers for models, found "
                f"{str(node['type'])[:80]!r}",
                "if you trust its code, name its module with --trust-modules"
                + (f" (the config imports {', '.join(imports)[:80]})" if imports else ""),
            )
        for key, value in node.items():
            _check_types(f"{path}.{key}", value, packages, imports)


def _is_allowed(kind: Any, packages: Sequence[str]) -> bool:
    if not isinstance(kind, str) or kind.rpartition(".")[2] in _REFUSED_TYPES:
        return False
    for registry in _REGISTRIES:
        try:
            found = registry.get(kind)
        except (AttributeError, RecursionError):  # a scope that the root registry does not have
            continue
        if found is not None:
            module = found.__module__
            return any(module == package or module.startswith(f"{package}.") for package in packages)
    return kind in {"BN", "GN", "LN", "IN", "SyncBN"}


def check_test_cfg(test_cfg: Any) -> None:
    """Refuse a `test_cfg` that predicting would fail with.

    Raises:
        ConfigError: it is malformed.
    """
    if test_cfg is None:
        return
    if not isinstance(test_cfg, dict) or test_cfg.get("mode", "whole") not in ("whole", "slide"):
        raise ConfigError("model.test_cfg", f"expected mode='whole' or 'slide', found {str(test_cfg)[:80]}")
    if test_cfg.get("mode") == "slide":
        for key in ("crop_size", "stride"):
            value = test_cfg.get(key)
            pair = isinstance(value, list | tuple) and len(value) == 2
            if not pair or not all(type(side) is int and 1 <= side <= _MAX_CROP for side in value):  # type: ignore[union-attr]
                raise ConfigError(f"model.test_cfg.{key}", f"expected two sides in pixels, found {str(value)[:80]}")
        for crop, stride in zip(test_cfg["crop_size"], test_cfg["stride"], strict=True):
            if crop < _MIN_CROP or stride * _MAX_OVERLAPPING < crop:
                raise ConfigError(
                    "model.test_cfg",
                    f"expected windows of at least {_MIN_CROP} px that move by at least 1/{_MAX_OVERLAPPING} of their "
                    f"size, found crop_size {crop} and stride {stride}",
                )
    steps, factor = test_cfg.get("subdivision_steps", 0), test_cfg.get("scale_factor", 1)
    numbers = all(isinstance(value, int | float) for value in (steps, factor))
    if not numbers or not (0 <= steps <= _MAX_STEPS and 0 < factor <= _MAX_STEP_FACTOR):
        raise ConfigError(
            "model.test_cfg",
            f"expected at most {_MAX_STEPS} subdivision_steps by a scale_factor of at most {_MAX_STEP_FACTOR:g}, found "
            f"{str(steps)[:40]} by {str(factor)[:40]}",
        )


_closed = threading.local()
_hooked = threading.Lock()
_hooks: list[Any] = []
_SOURCE = (".py", ".pyc", ".so", ".pth")
_CLOSED_EVENTS = (
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"),
    *("urllib.Request", "http.client.connect", "ftplib.connect", "subprocess.Popen", "os.system", "os.exec"),
    *("os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link"),
    *("os.truncate", "os.chmod", "os.chown", "shutil.copyfile", "shutil.rmtree", "pickle.find_class", "ctypes.dlopen"),
)


@contextlib.contextmanager
def closed_to_files_and_addresses() -> Iterator[None]:
    """Refuse, in this thread, to open files (but Python's own modules) and addresses, and to start processes.

    Python reports these to an audit hook before it does them. mmcv's `FileClient`, through which `mmcv.load` and its
    loaders of checkpoints read, is closed besides, as some of its backends open files in C.
    """
    importlib.import_module("torch._dynamo")  # torch's layers import it when first used, and it makes a folder
    with _hooked:
        if not _hooks:
            sys.addaudithook(_refuse_if_closed)  # hooks stay for the life of a process
            _hooks.append(_refuse_if_closed)
    before = FileClient.__dict__["__new__"]
    FileClient.__new__ = _no_file_client
    _closed.now = True
    try:
        yield
    finally:
        _closed.now = False
        FileClient.__new__ = before


def _refuse_if_closed(event: str, args: tuple[Any, ...]) -> None:
    if not getattr(_closed, "now", False):
        return
    if event == "open":
        path, mode, flags = args
        reads = (mode is None or not set(str(mode)) & set("wax+")) and not (flags or 0) & 3
        if not (reads and str(path).endswith(_SOURCE[:3])):
            raise PermissionError(f"a config from elsewhere may not open files, {str(path)[:80]!r} among them")
    elif event in _CLOSED_EVENTS:
        raise PermissionError(f"a config from elsewhere may not do this: {event}")


def _no_file_client(cls: type, *args: object, **kwargs: object) -> Any:
    raise PermissionError("a config from elsewhere may not open files or addresses")


class BoundedTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses, before it is made, a tensor that no weight of a checkpoint could fill, and too many of any size.

    Args:
        state: the checkpoint's weights.
    """

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        sizes = [value.numel() for value in state.values()]
        self._largest = max(1 << 24, 4 * max(sizes, default=0))
        self._numbers = (1 << 28) + 8 * sum(sizes)
        self._calls = 200_000 + 256 * len(sizes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the sizes that an operation asks for, then run it."""
        name = func.overloadpacket.__name__
        asked = [math.prod(arg) for arg in args if isinstance(arg, list | tuple) and all(type(i) is int for i in arg)]
        if name in {"arange", "linspace", "eye", "logspace"}:
            numbers = [abs(arg) for arg in args if isinstance(arg, int | float)]
            asked += [int(max(numbers, default=0)) ** (2 if name == "eye" else 1)]
        largest = max((abs(size) for size in asked), default=0)
        self._calls -= 1
        if not types:
            self._numbers -= largest
        if largest > self._largest or self._numbers < 0 or self._calls < 0:
            raise ValueError("the config's model is larger than the checkpoint's weights")
        return func(*args, **(kwargs or {}))
