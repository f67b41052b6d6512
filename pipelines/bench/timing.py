"""Paired timings: two ways of the same work in turn, so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from pipelines.bench.serving import peak_of, seconds_of, set_threads

__all__ = [
    "Compared",
    "LocalTask",
    "Paired",
    "Plan",
    "Task",
    "compared",
    "median_interval",
    "paired",
    "threads",
]

Work = Callable[[], object]


class Task(Protocol):
    """Work that can be timed, here or in a worker."""

    @property
    def units(self) -> int:
        """How many things (slices) are done in one call."""

    def seconds(self, least: float) -> float:
        """Return the mean seconds of one call, over as many as fill `least` seconds."""

    def peak(self) -> int | None:
        """Return the bytes that one call and its result take at most, if they can be counted."""

    def threads(self, number: int) -> None:
        """Compute with `number` threads from now on."""


@dataclass(frozen=True)
class LocalTask:
    """A call in this process."""

    work: Work
    units: int = 1

    def seconds(self, least: float) -> float:
        """Return the mean seconds of one call."""
        return seconds_of(self.work, least=least)

    def peak(self) -> int | None:
        """Return the bytes that a call takes at most: of the GPU where its result lies there."""
        if torch.cuda.is_available():
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            result = self.work()
            if isinstance(result, torch.Tensor) and result.is_cuda:
                return torch.cuda.max_memory_allocated() - before
        return peak_of(self.work)

    def threads(self, number: int) -> None:
        """Compute with `number` threads from now on, in this whole process."""
        set_threads(number)


@dataclass(frozen=True)
class Plan:
    """How often: `pairs` of runs with all threads, `alone` with one each, each at least `least` seconds.

    `quick` asks for small problems, which tell that everything runs and nothing more.
    """

    pairs: int = 7
    alone: int = 3
    least: float = 0.2
    quick: bool = False


@dataclass(frozen=True)
class Paired:
    """Median seconds per unit; median and range of the ratios pair by pair: how many times faster ours is."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Compared:
    """Two tasks side by side: all threads, one thread each, and the memory of a call."""

    together: Paired
    alone: Paired | None
    memory: tuple[int | None, int | None]
    units: tuple[int, int]


def paired(ours: Task, theirs: Task, *, pairs: int, least: float = 0.2) -> Paired:
    """Return what both take per unit, timed in turn after a call of each that is not counted."""
    ours.seconds(0.0), theirs.seconds(0.0)
    times = [(ours.seconds(least) / ours.units, theirs.seconds(least) / theirs.units) for _ in range(pairs)]
    ratios = [b / a for a, b in times]
    return Paired(
        ours=statistics.median(a for a, _ in times),
        theirs=statistics.median(b for _, b in times),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        pairs=pairs,
    )


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the median and an interval for that of the values' law, whatever it is; of few values the range.

    The number of values below the law's median is binomial: the interval ends at the k-th from either end,
    k the largest with P(fewer than k below) <= (1 - confidence) / 2.
    """
    ordered, n = sorted(values), len(values)
    k, tail = 0, 0.5**n
    while 2 * tail <= 1 - confidence:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    k = max(k, 1)
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def compared(ours: Task, theirs: Task, plan: Plan) -> Compared:
    """Return the comparison that `plan` asks for."""
    memory = ours.peak(), theirs.peak()
    together, alone = paired(ours, theirs, pairs=plan.pairs, least=plan.least), None
    if plan.alone and torch.get_num_threads() > 1:
        with threads(1, ours, theirs):
            alone = paired(ours, theirs, pairs=plan.alone, least=plan.least)
    return Compared(together, alone, memory, (ours.units, theirs.units))


@contextmanager
def threads(number: int, *tasks: Task) -> Iterator[None]:
    """Compute with `number` threads in the tasks."""
    before = torch.get_num_threads()
    for task in tasks:
        task.threads(number)
    try:
        yield
    finally:
        for task in tasks:
            task.threads(before)
