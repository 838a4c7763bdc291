"""Makes mmcv 1.x and mmseg 0.x importable on current torch.

mmseg imports `mmcv.ops` when it is imported, and that needs the compiled extension `mmcv._ext`. Images have it
(mmcv-full); laptops and tests install pure-Python mmcv, which lacks it. No layer of the bundled models calls a compiled
op, so there a stand-in lets the import succeed, and an op that is called nevertheless says what is missing.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
import warnings
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

from landseg.contracts.errors import ConfigError

EXTENSION = "mmcv._ext"

_BUILD_FACTS = ("get_compiler_version", "get_compiling_cuda_version")
"""Not ops but facts about the build, which mmcv reports in its list of versions."""


class _StandIn(types.ModuleType):
    """Has every op by name; calling one raises."""

    def __init__(self) -> None:
        super().__init__(EXTENSION, "A stand-in for the compiled ops of mmcv-full.")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):  # import machinery and inspect look for what modules may lack
            raise AttributeError(name)
        if name in _BUILD_FACTS:
            return lambda: "not available"

        def missing(*args: object, **kwargs: object) -> NoReturn:
            raise ConfigError(
                f"mmcv op {name}",
                "this model needs an op that only mmcv-full has; pure-Python mmcv is installed",
                "use the landseg training image, or install mmcv-full 1.7.2",
            )

        missing.__name__ = name
        return missing


def has_compiled_ops() -> bool:
    """Whether mmcv's compiled ops (mmcv-full) are installed rather than the stand-in."""
    return not isinstance(importlib.import_module(EXTENSION), _StandIn)


def gpu_names() -> list[str]:
    """The GPUs that torch sees."""
    torch = importlib.import_module("torch")
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def run_compiled_op() -> str:
    """Call one of mmcv's compiled ops, on a GPU if there is one, and check its result.

    Returns:
        What ran, where, and what the ops are compiled for.

    Raises:
        RuntimeError: the op gives a wrong result, or its binary does not match this torch or this GPU.
    """
    ops = importlib.import_module("mmcv.ops")
    torch = importlib.import_module("torch")
    cuda = ops.get_compiling_cuda_version()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and cuda == "not available":
        raise RuntimeError("there is a GPU, but mmcv-full is compiled for the CPU alone: use images of FLAVOR=cuda")
    # The second box overlaps the first, the third is apart.
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
    _, kept = ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), iou_threshold=0.5)
    if kept.tolist() != [0, 2]:
        raise RuntimeError(f"mmcv.ops.nms kept boxes {kept.tolist()}, expected [0, 2]")
    return f"mmcv.ops.nms ran on {device}, compiled " + (
        "for the CPU" if cuda == "not available" else f"with CUDA {cuda}"
    )


class _Finder(MetaPathFinder, Loader):
    """Finds the stand-in where no other finder has found the extension itself."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(EXTENSION, self) if name == EXTENSION else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _StandIn()

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    """Make mmcv and mmseg importable from now on, and silence warnings that a user of landseg cannot act on."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.append(_Finder())  # asked last
    # Both are repeated at every import.
    warnings.filterwarnings("ignore", "On January 1, 2023, MMCV will release", UserWarning)
    warnings.filterwarnings("ignore", "``MultiScaleDeformableAttention`` has been moved", ImportWarning)
    # mmcv looks for nvcc when it is imported; torch then warns that there is a compiler but no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
