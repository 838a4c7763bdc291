"""The documentation's commands work: each page's blocks run one after the other, as a reader would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks, pages

from pipelines.local.embedded_s3 import EmbeddedS3

PRELUDE = """
set -euo pipefail
make() { command make --old-file=.venv/.installed "$@"; }  # what is installed here is what the tests run with
"""
SKIPPED = ("cluster", "docker", "ci")


def runnable(page: Path, *, slow: bool) -> list[Block]:
    return [
        block
        for block in blocks(page)
        if block.remark.startswith("file: ")
        or block.remark == "apply"
        or (block.language == "sh" and block.remark not in SKIPPED and (slow or block.remark != "slow"))
    ]


def story(page: Path, *, slow: bool) -> str:
    """A page as one shell script: files are written, differences applied, commands run."""
    script = [PRELUDE]
    for block in runnable(page, slow=slow):
        script.append(f"echo '--- {block}' >&2")
        end = "END-OF-BLOCK"
        if block.remark.startswith("file: "):
            script.append(f"cat > {block.remark.removeprefix('file: ')} <<'{end}'\n{block.text}{end}")
        elif block.remark == "apply":
            script.append(f"git apply - <<'{end}'\n{block.text}{end}")
        else:
            script.append(block.text)
    return "\n".join(script)


def has_commands(page: Path, *, slow: bool) -> bool:
    return any(block.language == "sh" and (not slow or block.remark == "slow") for block in runnable(page, slow=slow))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the tree, with raw tiles beside it."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    return tmp_path


def run(page: Path, checkout: Path, s3: EmbeddedS3, *, slow: bool) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KF"))}
    env |= s3.env | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{checkout / 'src'}:{checkout}",
        "OMP_NUM_THREADS": "1",
    }
    sample = ["landseg", "make-sample-data", "tiles", "--train=8", "--val=4", "--test=2", "--size=64", "--quiet"]
    subprocess.run(sample, cwd=checkout, env=env, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        ["bash", "-c", story(page, slow=slow)], cwd=checkout, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedS3:
    with EmbeddedS3(tmp_path_factory.mktemp("docs-s3"), buckets=["bucket"]) as server:
        yield server


FAST = [page for page in pages() if has_commands(page, slow=False)]
SLOW = [page for page in pages() if has_commands(page, slow=True)]


@pytest.mark.parametrize("page", FAST, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_work(page: Path, checkout: Path, storage: EmbeddedS3) -> None:
    run(page, checkout, storage, slow=False)
    if page.name == "adding-a-model.md":
        compiled = (checkout / "pipelines" / "compiled" / "train-and-ensemble.yaml").read_text()
        assert compiled.count("train-segformer") and "probs_3:" in compiled and "segformer_lr:" in compiled
        assert (checkout / "pipelines" / "compiled" / "train-segformer.yaml").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", SLOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_long_commands_of_a_page_work(page: Path, checkout: Path, storage: EmbeddedS3) -> None:
    said = run(page, checkout, storage, slow=True).stdout
    if page.name == "adding-a-model.md":
        rows = [line.split()[0] for line in said.split("mIoU      mAcc      aAcc")[1].splitlines() if line.split()]
        assert rows == ["resnest", "segformer", "swin", "ensemble", "report:"]
