"""Every stage over a bad network ends with the result of a run without one; an outage without end is one line."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from s3_endpoint import S3

from benchmarks.netproxy import FaultProxy, Faults
from landseg import storage
from landseg.cli import main as cli

BAD = Faults(
    error_rate=0.05,
    reset_rate=0.05,
    truncate_rate=0.02,
    flip_rate=0.05,
    upload_flip_rate=0.1,  # of few uploads, and one must be met
    stall_rate=0.02,
    stall_s=0.2,
)
STAGES = ("stage-data", "train", "export-probs", "average-probs")
VERBS = (*STAGES, "verify", "status")


@dataclass
class Run:
    """A run of the whole pipeline with one tiny model, stage by stage, below `root`."""

    source: str
    root: str
    out: Path
    run_id: str = "r"

    def arguments(self, verb: str) -> list[str]:
        out, run = self.out, f"{self.root}/runs/{self.run_id}"
        where = ["--storage-uri", self.root, "--output-dir", str(out)]
        named = [*where, "--run-id", self.run_id, "--dataset", str(out / "dataset.json")]
        tiny = ["--epochs=1", "--batch-per-gpu=4", "--checkpoint-interval=1", "--num-workers=0", "--pretrained=none"]
        return {
            "stage-data": ["--source", self.source, "--shard-bytes=40000", "--num-workers=1", *where],
            "train": ["--name=swin", "--config=swin_tiny", *tiny, *named],
            "export-probs": ["--model", str(out / "model.json"), "--tta=none", *named],
            "average-probs": ["--probs", str(out / "probs.json"), *named],
            "verify": [run],
            "status": ["--storage-uri", self.root, "--run-id", self.run_id, "--json"],
        }[verb]

    def stage(self, verb: str) -> int:
        return cli.main([verb, *self.arguments(verb)])

    def results(self) -> dict[str, str]:
        """Checksums of all that must not depend on the network; folders of stages without the digest in their name."""
        found = {}
        for info in storage.list_objects(self.root):
            name = re.sub(r"/[0-9a-f]{12}/", "/", info.uri.removeprefix(self.root))
            if re.search(
                r"^/datasets/(?!by-name|.*arguments|.*costs)|/model\.pth$|/probs/c/|/maps/labels-\w+-\d+\.tar$|/summary\.json$",
                name,
            ):
                found[name] = hashlib.sha256(storage.get_bytes(info.uri)).hexdigest()
        return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("clean")
    raw = folder / "raw"
    assert cli.main(["make-sample-data", str(raw), "--train=12", "--val=4", "--test=2", "--size=64"]) == 0
    run = Run(str(raw), str(folder / "store"), folder / "out")
    for verb in VERBS:
        assert run.stage(verb) == 0
    return run


def over_the_proxy(clean: Run, s3: S3, proxy: FaultProxy, tmp_path: Path) -> Run:
    """The raw tiles in object storage, and a run that has not begun."""
    storage.put_many(
        (f"{s3.uri}/raw/{path.relative_to(clean.source)}", path)
        for path in Path(clean.source).rglob("*")
        if path.is_file()
    )
    proxy.counts.clear()
    return Run(f"{s3.uri}/raw", f"{s3.uri}/store", tmp_path / "out")


def run_all(clean: Run, s3: S3, proxy: FaultProxy, run: Run, before: Callable[[str], None]) -> None:
    """Every stage and verb through the proxy; then the results are those of the clean run."""
    for verb in VERBS:
        before(verb)
        assert run.stage(verb) == 0, verb
        assert proxy.counts["requests"] > 0, verb
    proxy.faults = Faults()
    proxy.events.clear()
    expected, found = clean.results(), run.results()
    assert found.keys() == expected.keys()
    assert found == expected


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_every_stage_ends_with_the_right_result(
    clean: Run, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    with FaultProxy(s3.server.endpoint, BAD, seed=seed) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        run = over_the_proxy(clean, s3, proxy, tmp_path)

        def before(verb: str) -> None:
            proxy.events = {proxy.counts["requests"] + 5: lambda: proxy.outage(0.7)}
            capsys.readouterr()

        run_all(clean, s3, proxy, run, before)
        states = json.loads(capsys.readouterr().out)
        faults = dict(proxy.counts)
    assert [(state["stage"], state["state"]) for state in states] == [(verb, "finished") for verb in STAGES]
    for fault in ("503 Slow Down", "500 Internal Server Error", "truncated", "upload reset", "answer reset", "stall"):
        assert faults[fault] > 0, fault
    assert faults["answer bit flipped"] > 0
    assert faults["upload bit flipped"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_waits_out_thirty_seconds(
    clean: Run, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        run = over_the_proxy(clean, s3, proxy, tmp_path)
        outages: list[str] = []

        def before(verb: str) -> None:
            def begin() -> None:
                outages.append(verb)
                proxy.outage(30.0)

            proxy.events = {proxy.counts["requests"] + 4: begin}

        run_all(clean, s3, proxy, run, before)
    assert outages == list(VERBS)


def test_an_outage_without_end_is_one_line_in_every_stage(
    clean: Run, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        run = over_the_proxy(clean, s3, proxy, tmp_path)
        for verb in VERBS:
            for after in (1, 4):  # at once, and in the middle of it
                monkeypatch.setenv("LANDSEG_S3_RETRY_S", "0.5")
                proxy.events = {proxy.counts["requests"] + after: lambda: proxy.outage(math.inf)}
                capsys.readouterr()
                assert run.stage(verb) == 2, (verb, after)
                lines = capsys.readouterr().err.splitlines()
                assert re.search(
                    rf"^landseg {verb}: error: .* is out of reach: .*; gave up after \d+ attempt", lines[-1]
                )
                assert not any("Traceback" in line or "error:" in line for line in lines[:-1])
                proxy.down = False
                proxy.events.clear()
            monkeypatch.delenv("LANDSEG_S3_RETRY_S")
            assert run.stage(verb) == 0
    assert run.results() == clean.results()
