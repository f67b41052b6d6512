"""Batches made one step ahead, in a thread: a source is a function of the step, so nothing else changes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from workbench.training.batch import Batch
from workbench.training.trainer import Source

__all__ = ["Ahead"]

Asked = tuple[int, range, int]


class Ahead:
    """A source that begins the same rows of the next step when those of a step are asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._begun: dict[Asked, Future[Batch]] = {}
        self._pool = ThreadPoolExecutor(max_workers=1)

    def batch(self, step: int, rows: range, whole: int) -> Batch:
        """Return the rows `rows` of the batch of a step."""
        found = self._begun.pop((step, rows, whole), None)
        following = (step + 1, rows, whole)
        if following not in self._begun:
            self._begun[following] = self._pool.submit(self.source.batch, *following)
        return self.source.batch(step, rows, whole) if found is None else found.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
