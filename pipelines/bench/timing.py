"""Paired timings: two ways of the same work in turn, so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

__all__ = ["Paired", "paired", "seconds_of", "threads"]

Work = Callable[[], object]


@dataclass(frozen=True)
class Paired:
    """Medians in seconds, and the median of the ratios pair by pair: how many times faster ours is."""

    ours: float
    theirs: float
    ratio: float
    pairs: int


def seconds_of(work: Work, *, least: float = 0.05) -> float:
    """Return the seconds that `work` takes, the mean of as many calls as fill `least` seconds."""
    calls, begun = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        passed = time.perf_counter() - begun
        if passed >= least:
            return passed / calls


def paired(ours: Work, theirs: Work, *, pairs: int = 5) -> Paired:
    """Return what both take, timed in turn after one call of each that is not counted."""
    ours(), theirs()
    times = [(seconds_of(ours), seconds_of(theirs)) for _ in range(pairs)]
    return Paired(
        ours=statistics.median(a for a, _ in times),
        theirs=statistics.median(b for _, b in times),
        ratio=statistics.median(b / a for a, b in times),
        pairs=pairs,
    )


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with `number` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
