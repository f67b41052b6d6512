"""Tasks done in as many threads as torch uses, for kernels that let go of the interpreter.

The caller works too, and takes task after task from one list, as the threads beside it do; one that finds
nothing left is not waited for. What takes less time than to wake another thread is done alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import TypeVar

import torch

__all__ = ["each"]

T = TypeVar("T")

#: Numbers read, weighed and added in half a millisecond: waking a thread takes a tenth to pay off.
WORTH = 2**22


def each(task: Callable[[T], object], tasks: Sequence[T], *, work: float = math.inf) -> None:
    """Call `task` with each of `tasks`; the first error of any is raised when no task runs any more.

    `work` is about how many numbers they handle together.
    """
    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1 or work < WORTH:
        for one in tasks:
            task(one)
        return
    left = _Left(tasks)
    futures = [_helpers().submit(_work, task, left) for _ in range(helpers)]
    try:
        _work(task, left)
    finally:
        # What stopped the caller stops the others; those that have not begun never will.
        left.drop()
        begun = [future for future in futures if not future.cancel()]
        _wait(begun)
    for future in begun:
        future.result()


class _Left(Iterator[T]):
    """The tasks that nobody has taken yet."""

    def __init__(self, tasks: Sequence[T]) -> None:
        self._tasks = iter(tasks)
        self._lock = Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._tasks)

    def drop(self) -> None:
        """Leave none."""
        with self._lock:
            self._tasks = iter(())


def _work(task: Callable[[T], object], left: _Left[T]) -> None:
    try:
        for one in left:
            task(one)
    except BaseException:
        left.drop()
        raise


def _wait(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        # Its error is raised later: until all are done, the memory they write to is theirs.
        with suppress(Exception):
            future.result()


_POOLS: dict[int, ThreadPoolExecutor] = {}


def _helpers() -> ThreadPoolExecutor:
    """Return the threads that wait for work, as many as torch has beside the caller's."""
    count = torch.get_num_threads() - 1
    if count not in _POOLS:
        _POOLS[count] = ThreadPoolExecutor(count, thread_name_prefix="operators")
    return _POOLS[count]


# A child of fork() has the pool and none of its threads: work given to it would never be done.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOLS.clear)
