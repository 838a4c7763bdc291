"""mmcv and mmseg import without compiled ops, and real compiled ops are never hidden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from landseg.contracts.errors import ConfigError
from landseg.models import compat


def run_python(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    prefix = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    return subprocess.run([sys.executable, "-W", "default", "-c", prefix + code], capture_output=True, text=True)


pure_python = pytest.mark.skipif(compat.has_compiled_ops(), reason="mmcv-full is installed")


@pure_python
def test_an_op_that_is_called_says_what_is_missing() -> None:
    from mmcv.ops import nms

    with pytest.raises(ConfigError, match=r"mmcv op nms: .*mmcv-full"):
        nms(torch.rand(3, 4), torch.rand(3), 0.5)


@pure_python
def test_versions_are_reported() -> None:
    from mmseg.utils import collect_env

    assert collect_env()["MMCV CUDA Compiler"] == "not available"


def test_importing_is_silent() -> None:
    done = run_python("import landseg.models, mmseg.apis")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "mmcv" in line.lower() or "CUDA_HOME" in line], done.stderr


def test_the_stand_in_gives_way_to_real_ops(tmp_path: Path) -> None:
    # A folder on mmcv's path stands for mmcv-full, whose _ext is found there.
    (tmp_path / "_ext.py").write_text(
        "def __getattr__(name):\n"
        "    if name.startswith('__'): raise AttributeError(name)\n"
        "    return lambda *args, **kwargs: 'real ' + name\n"
    )
    done = run_python(
        f"import mmcv; mmcv.__path__.append({str(tmp_path)!r})\n"
        "from landseg.models import compat\n"
        "import mmcv._ext\n"
        "print(compat.has_compiled_ops(), mmcv._ext.nms())"
    )
    assert done.stdout.split("\n")[0] == "True real nms", done.stderr
