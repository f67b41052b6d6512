"""What a worker does: run as a script in a peer's environment, it answers requests, one line of JSON each.

    python -P serving.py PEER.py      PEER.py defines PACKAGES and prepare(settings, arrays) -> operations

    {"do": "load", "settings": {...}, "arrays": {name: file}, "threads": n}
                                     ->  {"versions", "operations", "prepared"}, the seconds of prepare()
    {"do": "seconds", "of": operation, "least": s}  ->  {"value"}   mean of as many calls as fill `least` s
    {"do": "peak", "of": operation}  ->  {"value"}                  bytes beside what was held before, or null
    {"do": "result", "of": operation, "to": file}  ->  {}           as a .npy file
    {"do": "threads", "number": n}  ->  {}

A request that fails is answered by {"error": text}. The end of the input ends the worker. Operations are
calls without arguments. Nothing of ours is imported here: such an environment holds the peer, and numpy.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["peak_of", "seconds_of", "set_threads", "version_of"]

Work = Callable[[], object]


def seconds_of(work: Work, *, least: float = 0.2) -> float:
    """Return the seconds that `work` takes, the mean of as many calls as fill `least` seconds."""
    calls, begun = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        passed = time.perf_counter() - begun
        if passed >= least:
            return passed / calls


def peak_of(work: Work) -> int | None:
    """Return the bytes that `work` and its result take at most, or None where Linux does not count them."""
    try:
        # What was freed before goes back first: reused, it would not count.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _resident("VmRSS")
        result = work()
        found = _resident("VmHWM") - before
    except (OSError, AttributeError):
        return None
    del result
    return max(found, 0)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def set_threads(number: int) -> None:
    """Compute with `number` threads in torch and numba, where they are loaded."""
    # numba first: where it starts its threads at this call, it tells OpenMP its own number, torch's included.
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)


def version_of(package: str) -> str:
    """Return the version of an installed distribution, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class _Server:
    """The operations of one peer."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.operations: dict[str, Work] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, object]:
        """Return what `request` asks for."""
        import numpy as np

        match request["do"]:
            case "load":
                return self._load(request)
            case "seconds":
                return {"value": seconds_of(self.operations[request["of"]], least=request["least"])}
            case "peak":
                return {"value": peak_of(self.operations[request["of"]])}
            case "result":
                np.save(request["to"], np.asarray(self.operations[request["of"]]()))
            case "threads":
                set_threads(request["number"])
            case other:
                raise ValueError(f"`do` must be one of the requests of serving.py, got {other!r}.")
        return {}

    def _load(self, request: dict[str, Any]) -> dict[str, object]:
        import numpy as np

        spec = importlib.util.spec_from_file_location("peer", self.peer)
        if spec is None or spec.loader is None:
            raise ValueError(f"The peer must be a Python file, got {self.peer}.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        set_threads(request["threads"])
        arrays = {name: np.load(path) for name, path in request["arrays"].items()}
        begun = time.perf_counter()
        self.operations = module.prepare(request["settings"], arrays)
        prepared = time.perf_counter() - begun
        versions = {name: version_of(name) for name in module.PACKAGES}
        return {"versions": versions, "operations": list(self.operations), "prepared": prepared}


def _serve(peer: str) -> None:
    # Answers have the standard output for themselves: what a peer prints goes to the errors.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = _Server(peer)
    for line in sys.stdin:
        answer: dict[str, object]
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
