"""Tasks done in as many threads as torch uses, for kernels that let go of the interpreter.

The caller works too, and takes task after task from one list, as the threads beside it do; one that finds
nothing left is not waited for. What takes less time than waking another thread does is done alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Lock
from typing import Generic, TypeVar

import torch

__all__ = ["each"]

T = TypeVar("T")

#: Waking a thread takes some 0.1 ms: work of that many seconds gains by it.
WORTH = 2e-4


def each(task: Callable[[T], object], tasks: Sequence[T], *, seconds: float = math.inf) -> None:
    """Call `task` with each of `tasks`, which take about so many `seconds` together.

    An error stops the others, and is raised when no task runs any more: the caller's, else a helper's.
    """
    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1 or seconds < WORTH:
        for one in tasks:
            task(one)
        return
    left = _Left(task, tasks)
    futures: list[Future[None]] = []
    try:
        # No thread can be had at the interpreter's end, or in a system that has too many.
        with suppress(RuntimeError):
            pool = _pool(helpers)
            for _ in range(helpers):
                futures.append(pool.submit(left.work))
        left.work()
    finally:
        # What stopped the caller stops the others: until they are done, the memory they write to is theirs.
        left.drop()
        _finished(futures)
    if (failed := _first_error(futures)) is not None:
        try:
            raise failed
        finally:
            # An error knows this frame: were it known here, both would stay until the collector comes.
            del failed, futures


class _Left(Generic[T]):
    """The tasks that nobody has taken yet."""

    def __init__(self, task: Callable[[T], object], tasks: Sequence[T]) -> None:
        self._task: Callable[[T], object] | None = task
        self._tasks = iter([(one,) for one in tasks])
        self._lock = Lock()

    def work(self) -> None:
        """Do tasks until there are none, or until one fails."""
        task = self._task
        try:
            while task is not None and (one := self._next()):
                task(one[0])
        except BaseException:
            self.drop()
            raise

    def _next(self) -> tuple[T] | None:
        with self._lock:
            return next(self._tasks, None)

    def drop(self) -> None:
        """Leave none, and forget what they were to do."""
        with self._lock:
            self._task, self._tasks = None, iter(())


def _finished(futures: Sequence[Future[None]]) -> None:
    """Cancel what has not begun, and wait for what has, even if one is interrupted meanwhile."""
    begun = [future for future in futures if not future.cancel()]
    try:
        wait(begun)
    except BaseException:
        wait(begun)
        raise


def _first_error(futures: Sequence[Future[None]]) -> BaseException | None:
    errors = (future.exception() for future in futures if not future.cancelled())
    return next((error for error in errors if error is not None), None)


#: The pool of the most threads that were wanted so far, and their number.
_POOL: list[tuple[int, ThreadPoolExecutor]] = []


def _pool(count: int) -> ThreadPoolExecutor:
    """Return a pool of `count` threads that wait for work, or more."""
    if not _POOL or _POOL[0][0] < count:
        _POOL[:] = [(count, ThreadPoolExecutor(count, thread_name_prefix="operators"))]
    return _POOL[0][1]


# A child of fork() has the pool and none of its threads: work given to it would never be done.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.clear)
