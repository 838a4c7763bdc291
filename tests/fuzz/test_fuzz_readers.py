"""Every reader of foreign input, fed with damaged inputs in a process of its own that is watched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_targets import TARGETS

HERE = Path(__file__).parent
SECONDS = os.environ.get("LANDSEG_FUZZ_SECONDS", "20")
SEED = os.environ.get("LANDSEG_FUZZ_SEED", "1")


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("target", TARGETS)
def test_damaged_inputs_are_read_or_refused(target: str, tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "run_fuzzing.py"), target, SECONDS, SEED, str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    numbers = re.search(r"(\d+) read, (\d+) refused", done.stdout)
    assert numbers
    assert min(int(number) for number in numbers.groups()) > 0


FAULTS = {
    "raise KeyError('x')": "KeyError",
    "raise LandsegError('here', 'x' * 6000)": "not one line",
    "bytearray(700 << 20)": "MiB",
    "open('/tmp/../outside', 'w')": "for writing",
    "__import__('socket').create_connection(('127.0.0.1', 9))": "socket.connect",
}


def test_faults_are_found(tmp_path: Path) -> None:
    """The watch itself: readers with a fault of each kind, that fail from their second input on."""
    program = f"""
import sys
import run_fuzzing
from fuzz_targets import Target, damaged_bytes
from landseg.contracts.errors import LandsegError
for number, fault in enumerate({list(FAULTS)!r}):
    calls = []
    def read(data):
        calls.append(data)
        if len(calls) > 1:
            exec(fault)
    target = Target({{"seed": b"0123456789"}}, lambda name: read, damaged_bytes)
    run_fuzzing.TARGETS[str(number)] = lambda folder: target
    assert run_fuzzing.main(str(number), "20", "1", {str(tmp_path)!r}) == 1
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for number, (line, said) in enumerate(zip(done.stdout.splitlines(), FAULTS.values(), strict=True)):
        assert said in line
        assert (tmp_path / f"fault-{number}-seed").exists()
