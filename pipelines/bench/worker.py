"""A peer as a process of its own that is asked over a pipe: `serving.py` is its other end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.bench import serving

__all__ = ["PeerFailedError", "RemoteTask", "Worker"]

#: Seconds that an answer may take.
PATIENCE = 900.0


class PeerFailedError(Exception):
    """A peer, or its environment, that does not do what was asked."""


class Worker:
    """The operations of `peer`, a file for `serving.py`, computed by another Python on the same arrays.

    `importable` is a folder whose packages it may import beside those of its environment.
    """

    def __init__(
        self,
        python: Path,
        peer: Path,
        settings: Mapping[str, object],
        arrays: Mapping[str, NDArray[Any]],
        *,
        importable: Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._patience, self._rest = patience, b""
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._errors = Path(self._folder.name, "errors.txt")
        files = {name: Path(self._folder.name, f"{name}.npy") for name in arrays}
        for name, path in files.items():
            np.save(path, arrays[name])
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if importable is not None:
            environment["PYTHONPATH"] = str(importable)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                # -P: files beside serving.py do not hide packages of the same name.
                [str(python), "-P", serving.__file__, str(peer)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            loaded = self.ask(
                do="load",
                settings=dict(settings),
                arrays={name: str(path) for name, path in files.items()},
                threads=torch.get_num_threads(),
            )
        except BaseException:
            self.close()
            raise
        #: Seconds that the peer took to prepare, its imports not included.
        self.prepared = float(loaded["prepared"])
        self.versions: dict[str, str] = loaded["versions"]
        self.operations: list[str] = loaded["operations"]

    def ask(self, **request: object) -> dict[str, Any]:
        """Return the worker's answer."""
        stdin = self._process.stdin
        try:
            if stdin is None:
                raise PeerFailedError("The worker has no input.")
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(self._line())
        except (OSError, json.JSONDecodeError) as error:
            raise PeerFailedError(f"The worker stopped: {self._last_words() or error}") from error
        if "error" in answer:
            raise PeerFailedError(answer["error"])
        return answer

    def seconds(self, operation: str, *, least: float) -> float:
        """Return the mean seconds of one call, timed by the worker itself."""
        return float(self.ask(do="seconds", of=operation, least=least)["value"])

    def result(self, operation: str) -> NDArray[Any]:
        """Return what an operation returns, as an array."""
        path = Path(self._folder.name, "result.npy")
        self.ask(do="result", of=operation, to=str(path))
        found: NDArray[Any] = np.load(path)
        return found

    def close(self) -> None:
        """End the process and remove its files."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self.close()

    def _line(self) -> bytes:
        """Return the next line of the worker, within its patience."""
        stdout = self._process.stdout
        if stdout is None:
            raise PeerFailedError("The worker has no output.")
        until = time.monotonic() + self._patience
        while b"\n" not in self._rest:
            if not select.select([stdout], [], [], max(until - time.monotonic(), 0))[0]:
                self._process.kill()
                raise PeerFailedError(f"The worker gave no answer within {self._patience:g} s.")
            read = os.read(stdout.fileno(), 65536)
            if not read:
                raise PeerFailedError(f"The worker stopped: {self._last_words()}")
            self._rest += read
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class RemoteTask:
    """One operation of a worker; `units` things are done in a call."""

    def __init__(self, worker: Worker, operation: str, units: int = 1) -> None:
        self.worker, self.operation, self.units = worker, operation, units

    def seconds(self, least: float) -> float:
        """Return the mean seconds of one call."""
        return self.worker.seconds(self.operation, least=least)

    def peak(self) -> int | None:
        """Return the bytes that a call takes at most."""
        found = self.worker.ask(do="peak", of=self.operation)["value"]
        return None if found is None else int(found)

    def threads(self, number: int) -> None:
        """Compute with `number` threads from now on."""
        self.worker.ask(do="threads", number=number)

    def result(self) -> NDArray[Any]:
        """Return what a call returns."""
        return self.worker.result(self.operation)
