"""Cells one after the other, or in several processes, with the time that is left; stopped and gone on with.

One process per job with its share of the cores: a network of this size gains little from a second thread.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import torch

from operators.grid import Grid
from pipelines.quality.bench import Bench
from pipelines.quality.cells import Cell
from pipelines.quality.subjects import Modality
from workbench.random import Keys

__all__ = ["Costs", "run"]

#: From this share of the work on the time left follows the time taken.
KNOWN = 0.05

#: Why a cell has no figures whose process is gone.
KILLED = "its process was killed, for want of memory perhaps"
#: Slices in a batch that an evaluation is timed with, and how often.
BATCH, TIMES = 8, 3
#: Seconds that a step takes beside network and operator, and those of A^H A, per slice.
BESIDE, PRODUCT = 0.002, {"ct": 0.001, "mr": 0.004}


@dataclass(frozen=True)
class Costs:
    """Seconds of an evaluation of the prior on one slice, by modality."""

    evaluation: dict[Modality, float]

    @classmethod
    def measured(cls, bench: Bench, modalities: Sequence[Modality]) -> Costs:
        """Return what this process takes with the threads it has."""
        found: dict[Modality, float] = {}
        for modality in modalities:
            prior = bench.prior(modality, Grid.plane((128, 128), 2.0, thickness=2.0))
            z = Keys(0, tuple(range(BATCH))).normals(prior.space.shape, "timing", like=_like(prior.space))
            times = []
            with torch.no_grad():
                for _ in range(TIMES + 1):
                    began = time.perf_counter()
                    prior.denoise(z, 0.3)
                    times.append((time.perf_counter() - began) / BATCH)
            found[modality] = min(times[1:])
        return cls(found)

    def seconds(self, cell: Cell) -> float:
        """Return about how long a cell takes in one process."""
        one = self.evaluation.get(cell.modality, 0.0) + BESIDE
        return cell.evaluations * one + cell.products * PRODUCT[cell.modality]


def run(
    bench: Bench,
    cells: Sequence[Cell],
    costs: Costs,
    *,
    jobs: int,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Compute the cells that are not there, and return the records of all that are there then.

    After `minutes` no cell is begun; those that run are finished. The next call goes on.
    """
    began = time.monotonic()
    open_ = [cell for cell in cells if not bench.settled(cell)]
    planned = sum(costs.seconds(cell) for cell in open_) / jobs
    say(f"{len(cells)} cells, {len(cells) - len(open_)} of them done; about {_span(planned)} to go")
    done = 0.0

    def tell(cell: Cell, record: dict[str, Any]) -> None:
        nonlocal done
        done += costs.seconds(cell) / jobs
        passed = time.monotonic() - began
        # What is compiled and read at the start says nothing of the rest.
        left = (planned - done) * (passed / done if done > KNOWN * planned else 1.0)
        say(f"{cell.problem:<10} {cell.label:<28} {_said(record)}; {_span(left)} left")

    def late() -> bool:
        return minutes is not None and time.monotonic() - began > 60 * minutes

    if jobs == 1:
        for cell in open_:
            if late():
                break
            tell(cell, bench.computed(cell))
    else:
        _spread(bench, open_, jobs, late, tell)
    records = [bench.done(cell) for cell in cells]
    left = sum(record is None for record in records)
    if left:
        say(f"stopped after {_span(time.monotonic() - began)}: {left} cells are left, the same call goes on")
    return [record for record in records if record is not None]


def _spread(
    bench: Bench,
    cells: Sequence[Cell],
    jobs: int,
    late: Callable[[], bool],
    tell: Callable[[Cell, dict[str, Any]], None],
) -> None:
    """Compute cells in processes of their own; those that lose one are tried again, one by one.

    A process that is killed, for want of memory say, takes all that run beside it along: only a cell that is
    alone when it happens is known to be the cause, and is recorded as failed.
    """
    waiting = deque(cells)
    suspects = _through(bench, waiting, jobs, late, tell)
    while waiting or suspects:
        if late():
            return
        for cell in suspects:
            if _through(bench, deque([cell]), 1, late, tell):
                tell(cell, bench.recorded(cell, {"status": "failed", "reason": KILLED, "wall_seconds": 0.0}))
        suspects = _through(bench, waiting, jobs, late, tell)


def _through(
    bench: Bench,
    waiting: deque[Cell],
    jobs: int,
    late: Callable[[], bool],
    tell: Callable[[Cell, dict[str, Any]], None],
) -> list[Cell]:
    """Work off `waiting`; return the cells that ran when a process was lost, none where all went well."""
    running: dict[Future[dict[str, Any]], Cell] = {}
    lost: list[Cell] = []
    threads = min(torch.get_num_threads(), max(1, cores() // jobs))
    # Forked threads of torch would wait for ever.
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)
    ) as pool:
        while running or (waiting and not late()):
            while waiting and len(running) < jobs and not late() and not lost:
                cell = waiting.popleft()
                running[pool.submit(bench.computed, cell)] = cell
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                cell = running.pop(future)
                try:
                    tell(cell, future.result())
                except BrokenProcessPool:
                    lost.append(cell)
            if lost and not running:
                break
    return lost


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: its cell would be computed for nobody."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _said(record: dict[str, Any]) -> str:
    if record["status"] != "done":
        return f"{record['status']}: {record['reason'].splitlines()[0][:90]}"
    rows = record["slices"]
    mean = sum(row["mean"]["psnr"] for row in rows) / len(rows)
    return f"{mean:.2f} dB on {len(rows)} slices in {_span(record['wall_seconds'])}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _like(space: Any) -> torch.Tensor:
    return torch.empty(0, dtype=space.dtype_like(torch.empty(0)))
