"""Training processes that report to a benchmark, and take turns so that all meet the same machine."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Self

import torch

import landseg.configs
import landseg.models  # makes mmcv importable
from benchmarks.first_error import first_error

# isort: split
from mmcv.runner import HOOKS, Hook

_ADDRESS, _KEY = "LANDSEG_BENCH_ADDRESS", "LANDSEG_BENCH_KEY"


@HOOKS.register_module()
class TakeTurns(Hook):  # type: ignore[misc]
    """In the training process: waits for its turn before every iteration, and says what the iteration took.

    An iteration lasts from the end of the one before, so it includes the wait for its batch.
    """

    def before_run(self, runner: Any) -> None:
        """Wait for the first turn."""
        self.connection = _connect()
        self._wait()

    def after_train_iter(self, runner: Any) -> None:
        """Report, and wait for the next turn."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - self.start, time.process_time() - self.cpu_start
        values = {key: float(value) for key, value in runner.outputs["log_vars"].items()}
        self.connection.send({"seconds": seconds, "cpu_seconds": cpu_seconds, **values})
        self._wait()

    def _wait(self) -> None:
        self.connection.recv()
        self.start, self.cpu_start = time.perf_counter(), time.process_time()


@HOOKS.register_module()
class TellStart(Hook):  # type: ignore[misc]
    """In the training process: says when its first iteration begins, the batch being there."""

    told = False

    def before_train_iter(self, runner: Any) -> None:
        """Tell the time and the number of the iteration."""
        if not self.told:
            self.told = True
            with _connect() as connection:
                connection.send((time.time(), runner.iter))


def _connect() -> Connection[Any, Any]:
    return Client(os.environ[_ADDRESS], authkey=bytes.fromhex(os.environ[_KEY]))


def write_config(path: Path, base: str, overrides: Mapping[str, Any]) -> Path:
    """A config file on top of a bundled one."""
    bundled = Path(landseg.configs.__path__[0]) / f"{base}.py"
    lines = [f"_base_ = {str(bundled)!r}", *(f"{key} = {value!r}" for key, value in overrides.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


_STARTS_WITHIN_S = 600


class Trainee:
    """In the benchmark: a training process, once one of the hooks above has connected from it.

    Args:
        arguments: of `python -m`; the process registers one of the hooks among its config's.
        folder: for the socket and the log.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        address, key = folder / "turns", secrets.token_bytes(16)
        address.unlink(missing_ok=True)
        self.log = folder / "log.txt"
        with Listener(str(address), authkey=key) as listener, self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**os.environ, _ADDRESS: str(address), _KEY: key.hex()},
                stdout=log,
                stderr=log,
            )
            self.connection: Connection[Any, Any] = self._accept(listener)

    def _accept(self, listener: Listener) -> Connection[Any, Any]:
        """Wait for the hook to connect; the process may end before."""
        listener._listener._socket.settimeout(1)  # type: ignore[attr-defined]
        until = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                return listener.accept()
            except TimeoutError as err:
                if self.process.poll() is None and time.monotonic() < until:
                    continue
                self.process.kill()
                raise self._failure("did not begin") from err

    def _failure(self, what: str) -> RuntimeError:
        self.process.wait()
        return RuntimeError(f"the training process {what}: {first_error(self.log.read_text())}; the log: {self.log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def iterate(self) -> dict[str, float]:
        """Let it run one iteration.

        Returns:
            `seconds`, `cpu_seconds` of all its threads, and the values that it logs.
        """
        self.connection.send(None)
        try:
            values: dict[str, float] = self.connection.recv()
        except EOFError as err:
            raise self._failure("ended") from err
        return values
